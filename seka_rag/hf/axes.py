"""How a module's output holds the heads of its queries, keys and values: a small notation, read in this one place.

========== ======================================================================================================
``BTHD``     ``[B, T, H, D]``, as it is
``BHTD``     ``[B, H, T, D]``
``BT(HD)``   ``[B, T, H D]``
``BT(qkv)``  a fused projection: all query heads, then all key heads, then all value heads, each ``H D`` wide
``BT(Hqkv)`` a fused projection, head by head: each key head's G query heads, the key head itself, its value head
``BT(4qvk)`` a fused projection in 4 blocks, each with all its query heads, then value heads, then key heads
========== ======================================================================================================
"""

from __future__ import annotations

import re

from torch import Tensor

from seka_rag.errors import UnsupportedModelError
from seka_rag.ops.shapes import unflatten

_FUSED = re.compile(r"BT\((H|\d*)([qkv]{2,3})\)")


def read_heads(output: Tensor, axes: str, part: str, head_dim: int, groups: int) -> Tensor:
    """The queries, keys or values in a module's output; a view wherever the axes allow one.

    Args:
        output: as described by ``axes``.
        part: "q", "k" or "v".
        head_dim: D.
        groups: G query heads per key-value head.

    Returns:
        ``[B, T, heads, D]``; query head i belongs to key head ``i // G``.
    """
    if axes == "BTHD":
        return output
    if axes == "BHTD":
        return output.transpose(1, 2)
    if axes == "BT(HD)":
        return unflatten(output, -1, (-1, head_dim))
    return _part(output, axes, part, head_dim, groups).flatten(-3, -2)


def write_heads(output: Tensor, heads: Tensor, axes: str, part: str, head_dim: int, groups: int) -> Tensor:
    """A module's output with other heads ``[B, T, heads, D]`` of one part; the rest of a fused one is a copy, bit for bit."""
    if axes == "BTHD":
        return heads
    if axes == "BHTD":
        return heads.transpose(1, 2)
    if axes == "BT(HD)":
        return heads.flatten(-2)
    new = output.clone()
    place = _part(new, axes, part, head_dim, groups)
    place.copy_(unflatten(heads, -2, place.shape[-3:-1]))
    return new


def _part(output: Tensor, axes: str, part: str, head_dim: int, groups: int) -> Tensor:
    """A view ``[B, T, blocks, heads of a block, D]`` of one part of a fused output."""
    match = _FUSED.fullmatch(axes)
    if match is None:
        raise UnsupportedModelError(f"axes {axes!r} mean nothing; see the table in {__name__}")
    parts = match[2]
    sizes = [groups if p == "q" else 1 for p in parts]  # heads of each part, for one key head
    heads = output.shape[-1] // (head_dim * sum(sizes))  # known from the output: fewer where a model is split by heads
    blocks = heads if match[1] == "H" else int(match[1] or 1)
    each, at = heads // blocks, parts.index(part)
    whole = unflatten(output, -1, (blocks, each * sum(sizes), head_dim))
    return whole.narrow(-2, each * sum(sizes[:at]), each * sizes[at])
