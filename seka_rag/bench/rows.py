"""From outcomes to the rows of tables: rates with intervals, means, and paired tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from statistics import fmean
from typing import Any

from seka_rag.bench.item import Item
from seka_rag.bench.journal import Journal
from seka_rag.bench.methods import Variant
from seka_rag.bench.rates import mean_interval, wilson
from seka_rag.questions.pairs import sign_test

#: Measures that are rates; all other numbers are means.
RATES = ("right", "first", "top", "top3", "other", "abstains", "stopped")
#: Value of each unit: unit -> number.
Values = Mapping[str, float]


@dataclass(frozen=True)
class Row:
    """One figure: ``metric`` is ``group.measure``, ``n`` counts units, and low and high are a 95% interval.

    Rates have Wilson intervals, means 1.96 standard errors; a bound that is not known is None.
    """

    task: str
    model: str
    method: str
    settings: dict[str, object]
    metric: str
    n: int
    value: float
    low: float | None
    high: float | None

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """Two ways on the same units: how many are better under only one of them, and the exact sign test.

    Of rates, better is right where the other is wrong, and the test is McNemar's.
    """

    task: str
    model: str
    metric: str
    first: str
    second: str
    n: int
    only_first: int
    only_second: int
    p: float

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


class Table:
    """The values of all variants of one task, by metric and unit.

    Args:
        variants: those to report; variants that differ only in a seed are also pooled, their outcomes averaged by unit.
    """

    def __init__(
        self, task: str, model: str, items: Sequence[Item], variants: Sequence[Variant], journal: Journal
    ) -> None:
        self.task, self.model = task, model
        self.variants = list(variants)
        outcomes = {v: {i.id: journal.outcomes.get((v.key, i.id), {}) for i in items} for v in variants}
        self._values = {v: _by_metric(items, found) for v, found in outcomes.items()}
        for seeds in _seeds(variants):
            pooled = _pooled(seeds)
            mean = {item.id: _mean([outcomes[v][item.id] for v in seeds]) for item in items}
            self._values[pooled] = _by_metric(items, mean)
            self.variants.append(pooled)

    @property
    def metrics(self) -> list[str]:
        """All that any variant has a value of, in order."""
        return list(dict.fromkeys(m for values in self._values.values() for m in values))

    def values(self, variant: Variant, metric: str) -> Values:
        """Unit -> value."""
        return self._values[variant].get(metric, {})

    def value(self, variant: Variant, metric: str) -> float:
        """The mean over units; nan if there is none."""
        values = self.values(variant, metric)
        return fmean(values.values()) if values else math.nan

    def row(self, variant: Variant, metric: str) -> Row | None:
        """The figure of one variant, or None if it has none."""
        values = list(self.values(variant, metric).values())
        if not values:
            return None
        mean, n = fmean(values), len(values)
        low, high = wilson(mean, n) if metric.split(".")[-1] in RATES else mean_interval(values)
        bounds = [round(b, 6) if math.isfinite(b) else None for b in (low, high)]
        return Row(self.task, self.model, variant.method, variant.settings, metric, n, round(mean, 6), *bounds)

    def rows(self) -> list[Row]:
        """All figures."""
        every = (self.row(v, metric) for v in self.variants for metric in self.metrics)
        return [row for row in every if row is not None]

    def compare(self, metric: str, first: Variant, second: Variant) -> Comparison | None:
        """Two variants on the units that both have; None if there are none."""
        a, b = self.values(first, metric), self.values(second, metric)
        units = [unit for unit in a if unit in b]
        if not units:
            return None
        only, other = sum(a[u] > b[u] for u in units), sum(b[u] > a[u] for u in units)
        p = float(f"{sign_test(only, other):.3g}")
        return Comparison(self.task, self.model, metric, first.key, second.key, len(units), only, other, p)

    def comparisons(self, metrics: Sequence[str], between: Sequence[Variant]) -> list[Comparison]:
        """Every variant against the first one, which is plain, and some against each other."""
        plain, rest = self.variants[0], self.variants[1:]
        pairs = [*((plain, v) for v in rest), *combinations([v for v in between if v != plain], 2)]
        found = (self.compare(metric, *pair) for metric in metrics for pair in pairs)
        return [c for c in found if c is not None]


def _by_metric(items: Sequence[Item], outcomes: Mapping[str, Mapping[str, object]]) -> dict[str, dict[str, float]]:
    """metric -> unit -> mean over the unit's items."""
    found: dict[str, dict[str, list[float]]] = {}
    for item in items:
        for name, value in outcomes[item.id].items():
            if isinstance(value, bool | int | float):
                for group in item.groups:
                    found.setdefault(f"{group}.{name}", {}).setdefault(item.unit, []).append(float(value))
    return {metric: {unit: fmean(v) for unit, v in units.items()} for metric, units in found.items()}


def _seeds(variants: Sequence[Variant]) -> list[list[Variant]]:
    """Variants that differ in their seed alone, several each."""
    groups: dict[str, list[Variant]] = {}
    for variant in variants:
        if "seed" in variant.settings:
            rest = {k: v for k, v in variant.settings.items() if k != "seed"}
            groups.setdefault(f"{variant.method} {sorted(rest.items(), key=str)}", []).append(variant)
    return [group for group in groups.values() if len(group) > 1]


def _pooled(seeds: Sequence[Variant]) -> Variant:
    return replace(seeds[0], extra=(*seeds[0].extra, ("seed", None), ("seeds", len(seeds))))


def _mean(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    names = dict.fromkeys(k for o in outcomes for k, v in o.items() if isinstance(v, bool | int | float))
    return {name: fmean(float(o[name]) for o in outcomes if name in o) for name in names}
