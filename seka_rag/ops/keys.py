"""The edit of attention keys itself."""

from __future__ import annotations

import torch
from torch import Tensor

from seka_rag.ops.projection import KeyEdit


def edit_keys(keys: Tensor, rows: Tensor, columns: Tensor, weights: Tensor, edit: KeyEdit) -> Tensor:
    """New keys in which only the named tokens and heads differ: ``k' = k + w k M``.

    Every other element is a copy, bit for bit. No host synchronisation: the indices are given.

    Args:
        keys: ``[B, T, H, D]``, after the key norm and before rotary positions.
        rows, columns: ``[n]`` indices of the highlighted tokens.
        weights: ``[n]`` float32, multiplies the edit token by token.
        edit: heads and matrices.

    Returns:
        ``[B, T, H, D]`` in the dtype of ``keys``; the arithmetic is float32.
    """
    index = (rows[:, None], columns[:, None], edit.heads[None, :])
    old = keys[index].float()  # [n, h, D]
    delta = torch.einsum("nhd,hdr->nhr", old, edit.down)
    if edit.up is not None:
        delta = torch.einsum("nhr,hrd->nhd", delta, edit.up)
    return torch.index_put(keys, index, (old + weights[:, None, None] * delta).to(keys.dtype))
