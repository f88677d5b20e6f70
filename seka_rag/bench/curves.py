"""Following against harm: the curve of each method over its strengths, and where it stands at equal harm.

The rule: a method's curve begins at the plain model (its following, no harm) and runs through its strengths in their order,
straight in between. At a level of harm counts the most following on the part of the curve whose harm is at most that
level. Nothing is extrapolated: a method that never does so much harm counts with its best strength. What has no strength, such
as the wordings of an instruction, lies on no curve: of these points the best counts whose harm is at most that level.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from seka_rag.bench.methods import Variant
from seka_rag.bench.tasks.base import Curve
from seka_rag.steering.registry import METHODS

Point = tuple[float, float]  # harm, following


@dataclass(frozen=True)
class Entry:
    """One line of a table: a method and its settings, as they stand in rows.

    Attributes:
        stored: the settings as JSON.
    """

    method: str
    stored: str

    @classmethod
    def of(cls, method: str, settings: Mapping[str, object]) -> Entry:
        return cls(method, json.dumps(settings, sort_keys=True))

    @classmethod
    def of_key(cls, key: str) -> Entry:
        """That of a variant's key."""
        return cls.of_variant(Variant.of_key(key))

    @classmethod
    def of_variant(cls, variant: Variant) -> Entry:
        return cls.of(variant.method, variant.settings)

    @property
    def settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = json.loads(self.stored)
        return settings

    @property
    def highlight(self) -> str | None:
        return self.settings.get("highlight")

    @property
    def line(self) -> str:
        """What its curve is called: the method, with its highlight unless that is the evidence."""
        return self.method if self.highlight in (None, "gold") else f"{self.method}, {self.highlight}"

    @property
    def strength(self) -> float | None:
        method = METHODS.get(self.settings.get("method", ""))
        value = None if method is None else self.settings.get(method.strength_field)
        return None if value is None else float(value)

    @property
    def detail(self) -> str:
        """What tells it from the others of its line, in words."""
        settings = self.settings
        method = METHODS.get(settings.get("method", ""))
        shown = [f"{settings['seeds']} seeds"] if "seeds" in settings else []
        shown += [f"seed {settings['seed']}"] if "seed" in settings else []
        if method is not None:
            shown.insert(0, f"{method.strength_field} {self.strength:g}")
        elif settings.get("before") and not settings.get("marked"):
            shown.append(f"“{settings['before']}”")
        return ", ".join(shown)


#: Of each entry, plain first: metric -> value.
Figures = Mapping[Entry, Mapping[str, float]]


@dataclass(frozen=True)
class Line:
    """One method under one highlight: its entries in the order of their strength, and ``(harm, following)`` of each.

    Attributes:
        points: that of the plain model first.
    """

    name: str
    entries: tuple[Entry, ...]
    points: tuple[Point, ...]

    @property
    def joined(self) -> bool:
        """Whether there is something between its points: its entries are strengths of one setting."""
        return all(entry.strength is not None for entry in self.entries)

    def at(self, harm: float) -> float:
        """The most following at no more than this harm."""
        return at_most(self.points, harm) if self.joined else max(f for h, f in self.points if h <= harm)

    def best(self, harm: float) -> Entry | None:
        """The entry that follows most among those of no more than this harm; None if there is none."""
        fitting = [(p[1], e) for p, e in zip(self.points[1:], self.entries, strict=True) if p[0] <= harm]
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


def lines(figures: Figures, curve: Curve) -> list[Line]:
    """The curves of all methods that have both metrics; single seeds count only in what they are pooled to."""
    plain, *rest = figures
    nan = float("nan")
    start: Point = (0.0, figures[plain].get(curve.following, nan))

    def point(entry: Entry) -> Point:
        harm = figures[entry].get(curve.harm, nan)
        if curve.loss:
            lost = figures[plain].get(curve.harm, nan) - harm
            harm = 0.0 if lost < 0 else lost  # nan stays nan
        return harm, figures[entry].get(curve.following, nan)

    groups: dict[str, list[Entry]] = {}
    for entry in rest:
        if "seed" not in entry.settings:
            groups.setdefault(entry.line, []).append(entry)
    found = []
    for name, entries in groups.items():
        ordered = sorted(entries, key=lambda e: e.strength or 0.0)
        points = tuple(map(point, ordered))
        if not any(math.isnan(x) for p in (start, *points) for x in p):
            found.append(Line(name, tuple(ordered), (start, *points)))
    return found


def best_of_lines(figures: Figures, metric: str) -> list[Entry]:
    """Of each method under each highlight the entry that is highest; single seeds count only in what they are pooled to."""
    best: dict[str, Entry] = {}
    for entry, values in figures.items():
        there = best.get(entry.line)
        if "seed" not in entry.settings and (
            there is None or values.get(metric, -1.0) > figures[there].get(metric, -1.0)
        ):
            best[entry.line] = entry
    return list(best.values())
