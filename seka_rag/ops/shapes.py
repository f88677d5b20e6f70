"""Reshaping with types: torch leaves ``Tensor.unflatten`` untyped."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def unflatten(tensor: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """One dimension as several; a size of -1 is what remains."""
    split: Tensor = tensor.unflatten(dim, tuple(sizes))  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return split
