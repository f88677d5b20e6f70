"""A peer for the speed benchmark only: attention to highlights raised in the attention scores, as PASTA does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def attention_bias(model: nn.Module, mask: Tensor, bias: float) -> Iterator[None]:
    """Add ``bias`` to the scores of highlighted tokens in every layer, head and step. Needs eager attention.

    Args:
        mask: ``[B, T]`` bool over the prompt.
    """

    def before(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        given = kwargs["attention_mask"]  # [B, 1, Q, K]
        extra = torch.zeros(given.shape[0], 1, 1, given.shape[-1], dtype=given.dtype, device=given.device)
        extra[:, 0, 0, : mask.shape[1]] = bias * mask.to(given.device)
        return args, {**kwargs, "attention_mask": given + extra}

    layers: Any = model.get_decoder().layers  # type: ignore[operator]
    handles = [layer.self_attn.register_forward_pre_hook(before, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
