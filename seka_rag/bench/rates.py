"""Rates with their uncertainty. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_Z = 1.959964


def wilson(p: float, n: int) -> tuple[float, float]:
    """Lower and upper bound of a rate ``p`` of ``n`` (Wilson 1927, 95%); ``p n`` need not be whole, as for mean rates."""
    if not n:
        return (0.0, 1.0)
    middle = (p + _Z * _Z / (2 * n)) / (1 + _Z * _Z / n)
    half = _Z / (1 + _Z * _Z / n) * math.sqrt(max(0.0, p * (1 - p)) / n + _Z * _Z / (4 * n * n))
    return (max(0.0, middle - half) if p else 0.0, min(1.0, middle + half) if p < 1 else 1.0)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean of numbers, give or take 1.96 of its standard errors; without bounds for fewer than two."""
    n = len(values)
    if n < 2:
        return (-math.inf, math.inf)
    mean = sum(values) / n
    half = _Z * math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)
    return (mean - half, mean + half)


@dataclass(frozen=True)
class Rate:
    """``hits`` of ``n``, with a 95% Wilson score interval."""

    hits: int
    n: int

    @classmethod
    def of(cls, outcomes: Sequence[bool]) -> Rate:
        return cls(sum(map(bool, outcomes)), len(outcomes))

    @property
    def value(self) -> float:
        return self.hits / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound, by ``wilson``."""
        return wilson(self.value, self.n)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.3f} [{low:.3f}, {high:.3f}]"
