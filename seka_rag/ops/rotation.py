"""Rotary positions: pairs of dimensions that turn by an angle, each pair at its own frequency."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pairing:
    """Which dimensions of a head turn together.

    Attributes:
        start: the first dimension that turns; those before it, and those after the last pair, stay.
        interleaved: pairs are neighbours ``(2i, 2i + 1)``; otherwise each half holds one of every pair, ``(i, i + r / 2)``.
    """

    start: int = 0
    interleaved: bool = False


STRAIGHT = Pairing()


def rotate(x: Tensor, angles: Tensor, pairing: Pairing) -> Tensor:
    """Turn the pairs of ``x [..., D]`` by ``angles [..., r / 2]``; the leading dimensions broadcast."""
    cos, sin, r = angles.cos(), angles.sin(), 2 * angles.shape[-1]
    turning = x[..., pairing.start : pairing.start + r]
    if pairing.interleaved:
        first, second = turning[..., ::2], turning[..., 1::2]
    else:
        first, second = turning[..., : r // 2], turning[..., r // 2 :]
    new = (first * cos - second * sin, second * cos + first * sin)
    turned = torch.stack(new, -1).flatten(-2) if pairing.interleaved else torch.cat(new, -1)
    if r == x.shape[-1]:
        return turned
    shape = (*turned.shape[:-1], x.shape[-1])
    before, after = x[..., : pairing.start].expand(*shape[:-1], -1), x[..., pairing.start + r :].expand(*shape[:-1], -1)
    return torch.cat([before, turned, after], -1)
