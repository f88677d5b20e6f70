"""How much a method changes keys: |delta k| / |k| of each head, measured in the steered pass itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seka_rag.bank import Bank
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.hooks import recording
from seka_rag.steering.base import steer
from seka_rag.steering.key_editing import KeyEditing


@torch.inference_mode()
def edit_sizes(
    hf_model: nn.Module,
    bank: Bank,
    method: KeyEditing,
    input_ids: Tensor,
    mask: Tensor,
    attention_mask: Tensor | None = None,
) -> dict[int, Tensor]:
    """The mean of ``|delta k| / |k|`` over highlighted tokens, by one pass of the decoder: layer -> ``[H]``.

    A head that is not edited has 0. Keys are those before rotary positions, which change no length.

    Args:
        input_ids: ``[B, T]`` whole prompts, on the model's device.
        mask: ``[B, T]`` the highlights, as for ``steer``.
        attention_mask: ``[B, T]``, 0 for padding on either side.

    Raises:
        BankError, SteeringError, UnsupportedModelError: as ``steer``.
    """
    sites, marked = find_key_sites(hf_model), mask > 0
    method = method.model_copy(update={"fade": None})  # which comes after the prompt
    prepared = method.prepare(hf_model, bank, input_ids, attention_mask)
    with recording(sites) as before, steer(hf_model, bank, mask, method, prepared=prepared) as report:
        with recording(sites) as after:
            sites.decoder(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    sizes = {}
    for layer in report.layers:
        old = before[layer][marked.to(before[layer].device)].float()
        new = after[layer][marked.to(after[layer].device)].float()
        sizes[layer] = ((new - old).norm(dim=-1) / old.norm(dim=-1)).mean(0).cpu()
    return sizes
