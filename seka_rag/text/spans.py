"""Highlight spans: weighted half-open character ranges, kept beside a text and never inside it."""

from __future__ import annotations

import heapq
import itertools
import math
import operator
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from numbers import Real

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
        SpanError: a position that is no whole number, an empty or negative range, or a weight that is no number, negative
            or not finite.
    """

    start: int
    end: int
    weight: float = 1.0
    source: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", _position("start", self.start))
        object.__setattr__(self, "end", _position("end", self.end))
        object.__setattr__(self, "weight", _weight(self.weight))
        if self.source is not None and not isinstance(self.source, str):
            raise SpanError(f"span source {self.source!r}: give the name of a document, or None")
        if self.start < 0:
            raise SpanError(f"span starts at {self.start}: character positions count from 0")
        if self.end <= self.start:
            raise SpanError(f"empty span [{self.start}, {self.end}): its end must be greater than its start")

    def __len__(self) -> int:
        return self.end - self.start


def _position(name: str, value: object) -> int:
    if type(value) is int:
        return value
    try:  # whole numbers of numpy and the like
        if not isinstance(value, bool):
            return operator.index(value)  # type: ignore[arg-type]  # what has no index is caught
    except TypeError:
        pass
    raise SpanError(f"span {name} {value!r}: give a whole number of characters, counted from 0")


def _weight(value: object) -> float:
    if isinstance(value, Real) and not isinstance(value, bool):
        with suppress(OverflowError):  # a whole number of hundreds of digits
            weight = float(value)
            if math.isfinite(weight) and weight >= 0:
                return weight
    raise SpanError(f"span weight {value!r:.60}: give a finite number of at least 0")


def trimmed(
    text: str, start: int = 0, end: int | None = None, weight: float = 1.0, source: str | None = None
) -> tuple[Span, ...]:
    """A span over ``text[start:end]`` without the white space around it; none where nothing else stands."""
    part = text[start:end]
    first, last = start + len(part) - len(part.lstrip()), start + len(part.rstrip())
    return (Span(first, last, weight, source),) if first < last else ()


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
    waiting = sorted(enumerate(spans), key=lambda item: item[1].start, reverse=True)
    edges = sorted({edge for _, s in waiting for edge in (s.start, s.end)})
    over: list[tuple[float, int, Span]] = []  # a heap: the heaviest, of equal ones the first
    merged: list[Span] = []
    for start, end in itertools.pairwise(edges):
        while waiting and waiting[-1][1].start <= start:
            order, span = waiting.pop()
            heapq.heappush(over, (-span.weight, order, span))
        while over and over[0][2].end <= start:
            heapq.heappop(over)
        if not over:
            continue
        best = over[0][2]
        last = merged[-1] if merged else None
        if last and last.end == start and (last.weight, last.source) == (best.weight, best.source):
            merged[-1] = replace(last, end=end)
        else:
            merged.append(replace(best, start=start, end=end))
    return tuple(merged)


def overlapping(spans: Sequence[Span], start: int, end: int) -> Iterator[Span]:
    """Those of disjoint spans, in order, that share a character with ``[start, end)``."""
    for i in range(bisect_right(spans, start, key=lambda s: s.end), len(spans) if start < end else 0):
        if spans[i].start >= end:
            return
        yield spans[i]
