"""Following against harm: the curve of each method over its strengths, and where it stands at equal harm.

The rule: a method's curve begins at the plain model (its following, no harm) and runs through its strengths in their order,
straight in between. At a level of harm counts the most following on the part of the curve whose harm is at most that
level. Nothing is extrapolated: a method that never does so much harm counts with its best strength.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from seka_rag.bench.methods import Variant
from seka_rag.bench.rows import Table
from seka_rag.bench.tasks.base import Curve

Point = tuple[float, float]  # harm, following


@dataclass(frozen=True)
class Line:
    """One method under one highlight: its variants in the order of their strength, and ``(harm, following)`` of each.

    Attributes:
        points: that of the plain model first.
    """

    name: str
    variants: tuple[Variant, ...]
    points: tuple[Point, ...]

    def at(self, harm: float) -> float:
        """The most following at no more than this harm."""
        return at_most(self.points, harm)

    def best(self, harm: float) -> Variant | None:
        """The variant that follows most among those of no more than this harm; None if there is none."""
        fitting = [(p[1], v) for p, v in zip(self.points[1:], self.variants, strict=True) if p[0] <= harm]
        return max(fitting, key=lambda pair: pair[0])[1] if fitting else None


def at_most(points: Sequence[Point], harm: float) -> float:
    """The most following on a line through points where harm is at most this.

    >>> at_most([(0.0, 0.4), (0.2, 0.8), (1.0, 0.9)], 0.1)
    0.6
    """
    best = -math.inf
    for (h0, f0), (h1, f1) in pairwise([*points, points[-1]]):
        best = max([best, *(f for h, f in ((h0, f0), (h1, f1)) if h <= harm)])
        if min(h0, h1) <= harm < max(h0, h1):
            best = max(best, f0 + (f1 - f0) * (harm - h0) / (h1 - h0))
    return round(best, 6)


def lines(table: Table, curve: Curve) -> list[Line]:
    """The curves of all methods that have both metrics."""
    plain = table.variants[0]
    at_plain = table.value(plain, curve.harm)

    def point(variant: Variant) -> Point:
        harm = table.value(variant, curve.harm)
        return (max(0.0, at_plain - harm) if curve.loss else harm, table.value(variant, curve.following))

    start: Point = (0.0, table.value(plain, curve.following))
    groups: dict[str, list[Variant]] = {}
    for variant in table.variants[1:]:
        if "seed" not in variant.settings:
            groups.setdefault(name_of(variant), []).append(variant)
    found = []
    for name, variants in groups.items():
        ordered = sorted(variants, key=lambda v: v.strength or 0.0)
        points = tuple(map(point, ordered))
        if not any(math.isnan(x) for p in (start, *points) for x in p):
            found.append(Line(name, tuple(ordered), (start, *points)))
    return found


def name_of(variant: Variant) -> str:
    """What the curve is called: the method, with its highlight unless that is the evidence."""
    return variant.method if variant.highlight in (None, "gold") else f"{variant.method}, {variant.highlight}"
