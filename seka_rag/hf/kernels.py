"""Attention as torch's functions show it: calls of ``scaled_dot_product_attention``, and the softmax of eager code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from seka_rag.hf.types import Arguments

#: How eager attention code calls its softmax.
SOFTMAX = (functional.softmax, torch.softmax, torch.Tensor.softmax)
_NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


def sdpa_arguments(args: Sequence[Any], kwargs: Arguments) -> Arguments:
    """The arguments of a call of ``scaled_dot_product_attention`` by name."""
    return {**dict(zip(_NAMES, args, strict=False)), **kwargs}


def sdpa_scores(query: Tensor, key: Tensor, scale: float | None) -> Tensor:
    """``[..., Q, t, T]`` scores of queries ``[..., Q, t, D]`` and keys ``[..., H, T, D]``, before the mask.

    Args:
        scale: as it was given; None is 1 / sqrt(D).
    """
    keys = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    return query @ keys.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
