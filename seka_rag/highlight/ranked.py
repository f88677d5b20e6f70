"""What highlighters share that mark the best of all passages, or of all their sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from seka_rag.errors import SpanError
from seka_rag.highlight.base import PassageSpans, whole
from seka_rag.text.passages import Passage
from seka_rag.text.sentences import sentences
from seka_rag.text.spans import Span

Unit = Literal["passage", "sentence"]


def check_ranking(top: int, unit: str) -> None:
    """Raise if there is no such ranking.

    Raises:
        SpanError: ``top`` below 1, or an unknown unit.
    """
    if top < 1:
        raise SpanError(f"top={top}: give at least 1, or use the highlighter 'off' to mark nothing")
    if unit not in ("passage", "sentence"):
        raise SpanError(f"unit={unit!r}: choose 'passage' or 'sentence'")


def units_of(passage: Passage, unit: Unit) -> tuple[Span, ...]:
    """The passage without white space around it, or its sentences; none if it is blank."""
    if unit == "passage":
        return whole(passage)
    return tuple(Span(s.start, s.end, 1.0, passage.source) for s in sentences(passage.text))


def mark_best(units: Sequence[Sequence[Span]], scores: Sequence[float], top: int) -> PassageSpans:
    """The ``top`` spans of the highest scores, each in its passage; of equal ones, those that come first.

    Args:
        units: the spans of each passage.
        scores: one for each span, in the order of passages and spans.
    """
    places = [(i, span) for i, spans in enumerate(units) for span in spans]
    best = sorted(range(len(places)), key=lambda n: -scores[n])[:top]
    marked: list[list[Span]] = [[] for _ in units]
    for i, span in sorted((places[n] for n in best), key=lambda place: (place[0], place[1].start)):
        marked[i].append(span)
    return [tuple(spans) for spans in marked]
