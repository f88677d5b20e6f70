"""How much attention the last token pays to each part of a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seka_rag.errors import UnsupportedModelError
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.tokens import TokenizedPrompt
from seka_rag.hf.types import Output


def last_token_attention(hf_model: nn.Module, prompt: TokenizedPrompt) -> Tensor:
    """Attention weights of the last position in one forward pass.

    Args:
        hf_model: loaded with ``attn_implementation="eager"``, the only one that returns weights.

    Returns:
        ``[L, Q, T]`` for L layers, Q query heads and T tokens; each row sums to 1, or is zero in a layer without
        attention (hybrid models).

    Raises:
        UnsupportedModelError: the attention implementation returns no weights, or not a layer's own.
    """
    device = next(hf_model.parameters()).device
    with torch.inference_mode():
        output: Output = hf_model(
            input_ids=torch.tensor([prompt.ids], device=device), output_attentions=True, use_cache=False
        )
    if not output.attentions or output.attentions[0] is None:
        raise UnsupportedModelError("attention weights need a model loaded with attn_implementation='eager'")
    rows = [a[0, :, -1].float().cpu() for a in output.attentions]
    sites = find_key_sites(hf_model)
    layers = range(sites.layers) if len(rows) == sites.layers else list(sites.modules)
    if len(rows) != len(layers):
        raise UnsupportedModelError(f"{len(rows)} layers return attention weights, {len(layers)} have keys")
    weights = torch.zeros(sites.layers, *rows[0].shape)
    weights[list(layers)] = torch.stack(rows)
    return weights


def attention_to(attention: Tensor, prompt: TokenizedPrompt, ranges: Sequence[tuple[int, int]]) -> Tensor:
    """Attention to character ranges of the prompt: ``[L, Q, T]`` -> ``[L, Q, n]``, summed over their tokens."""
    inside = torch.tensor(
        [[e > s and s < end and e > start for s, e in prompt.offsets] for start, end in ranges], dtype=attention.dtype
    )
    return torch.einsum("lqt,nt->lqn", attention, inside)
