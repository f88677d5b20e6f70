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
    old = keys[index].float().transpose(0, 1)  # [h, n, D]
    if edit.up is None:
        new = torch.baddbmm(old, old * weights[:, None], edit.down)
    else:  # weights go where they are fewest
        new = torch.baddbmm(old, torch.bmm(old, edit.down) * weights[:, None], edit.up)
    return torch.index_put(keys, index, new.transpose(0, 1).to(keys.dtype))
