"""Highlight spans: weighted half-open character ranges, kept beside a text and never inside it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from seka_rag.errors import SpanError


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Characters ``start`` (inclusive) to ``end`` (exclusive) of a text, highlighted with ``weight``.

    Args:
        start: first character, from 0.
        end: one past the last character, greater than ``start``.
        weight: multiplies the gain for these characters; 1 is the full gain, 0 no steering at all.
        source: where the text came from (a document id), for reports.

    Raises:
        SpanError: an empty or negative range, or a weight that is negative or not finite.
    """

    start: int
    end: int
    weight: float = 1.0
    source: str | None = None

    def __post_init__(self) -> None:
        if self.start < 0:
            raise SpanError(f"span starts at {self.start}: character positions count from 0")
        if self.end <= self.start:
            raise SpanError(f"empty span [{self.start}, {self.end}): its end must be greater than its start")
        if not math.isfinite(self.weight) or self.weight < 0:
            raise SpanError(f"span weight {self.weight!r}: give a finite number of at least 0")

    def __len__(self) -> int:
        return self.end - self.start


def shift(spans: Iterable[Span], by: int) -> tuple[Span, ...]:
    """The spans moved ``by`` characters to the right (or left, if negative)."""
    return tuple(replace(s, start=s.start + by, end=s.end + by) for s in spans)


def clip(spans: Iterable[Span], start: int, end: int) -> tuple[Span, ...]:
    """The parts of the spans that lie in ``[start, end)``; what lies outside is dropped."""
    return tuple(
        replace(s, start=max(s.start, start), end=min(s.end, end)) for s in spans if s.start < end and s.end > start
    )


def merge(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Disjoint spans, in order, that cover the same characters; where spans overlap, the largest weight counts.

    Neighbours of equal weight and source become one span.
    """
    spans = list(spans)
    edges = sorted({edge for s in spans for edge in (s.start, s.end)})
    merged: list[Span] = []
    for start, end in itertools.pairwise(edges):
        over = [s for s in spans if s.start <= start and s.end >= end]
        if not over:
            continue
        best = max(over, key=lambda s: s.weight)
        last = merged[-1] if merged else None
        if last and last.end == start and (last.weight, last.source) == (best.weight, best.source):
            merged[-1] = replace(last, end=end)
        else:
            merged.append(replace(best, start=start, end=end))
    return tuple(merged)
