"""Two ways of answering the same questions: whether one of them is better. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence


def discordant(first: Sequence[bool], second: Sequence[bool]) -> tuple[int, int]:
    """How many pairs only the first has, and how many only the second.

    Raises:
        ValueError: sequences of different length.
    """
    pairs = list(zip(first, second, strict=True))
    return sum(x and not y for x, y in pairs), sum(y and not x for x, y in pairs)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Exact two-sided McNemar test of two methods on the same prompts: p of no difference.

    Raises:
        ValueError: sequences of different length.
    """
    return sign_test(*discordant(first, second))


def sign_test(better: int, worse: int) -> float:
    """Exact two-sided sign test: p of so uneven a split where both directions are as likely.

    >>> sign_test(0, 5)
    0.0625
    """
    n = better + worse
    tail: float = sum(math.comb(n, k) for k in range(min(better, worse) + 1)) / 2**n
    return min(1.0, 2 * tail)


def mean_difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """The mean of ``second - first`` over pairs, and its standard error (0 for fewer than two pairs).

    >>> mean_difference([0, 0, 1, 1], [1, 0, 1, 1])
    (0.25, 0.25)

    Raises:
        ValueError: sequences of different length, or none.
    """
    moved = [float(y) - float(x) for x, y in zip(first, second, strict=True)]
    n = len(moved)
    if not n:
        raise ValueError("there are no pairs")
    mean = sum(moved) / n
    spread = sum((m - mean) ** 2 for m in moved)
    return mean, math.sqrt(spread / (n - 1) / n) if n > 1 else 0.0
