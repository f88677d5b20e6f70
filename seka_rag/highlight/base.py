"""What a highlighter is, and what every result of one must satisfy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from seka_rag.errors import SpanError
from seka_rag.text.passages import Passage
from seka_rag.text.spans import Span

#: Spans of each passage, in characters of its own text.
PassageSpans = list[tuple[Span, ...]]


@runtime_checkable
class Highlighter(Protocol):
    """Chooses what to highlight in retrieved passages.

    Any callable of this form is one. It returns one tuple for every passage, in the same order, with spans in
    characters of ``passage.text``; an empty tuple leaves a passage unmarked. Passages are untrusted text: what is
    marked in one of them must not depend on what one of another source says.
    """

    def __call__(self, question: str, passages: Sequence[Passage]) -> PassageSpans: ...


def check_spans(passages: Sequence[Passage], spans: Sequence[Sequence[Span]]) -> PassageSpans:
    """The result of a highlighter, after a check that it fits the passages.

    Raises:
        SpanError: not one tuple of spans for each passage, or a span beyond its passage.
    """
    if len(spans) != len(passages):
        raise SpanError(
            f"a highlighter returned spans for {len(spans)} passages of {len(passages)}: it must return one tuple of "
            "spans for each passage, empty for none"
        )
    for i, (passage, own) in enumerate(zip(passages, spans, strict=True)):
        for span in own:
            if not isinstance(span, Span):
                raise SpanError(f"a highlighter returned {type(span).__name__} for passage {i}: it must return Span")
            if span.end > len(passage.text):
                raise SpanError(
                    f"span [{span.start}, {span.end}) reaches beyond passage {i} of {len(passage.text)} characters: "
                    "spans count from the start of their own passage"
                )
    return [tuple(own) for own in spans]


def whole(passage: Passage, weight: float = 1.0) -> tuple[Span, ...]:
    """A span over the whole passage without white space around it; none if it is blank or the weight is 0."""
    text = passage.text
    start, end = len(text) - len(text.lstrip()), len(text.rstrip())
    return (Span(start, end, weight, passage.source),) if start < end and weight > 0 else ()
