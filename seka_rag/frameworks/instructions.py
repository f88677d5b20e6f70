"""Text of the application and of the user as highlights, and never what was retrieved."""

from __future__ import annotations

from collections.abc import Iterable

from seka_rag.text.provenance import Placement
from seka_rag.text.spans import Span, trimmed

#: What spans of these kinds give as their source.
INSTRUCTIONS, QUESTION = "instructions", "question"
#: Names under which templates know the question; the first that is given counts.
QUESTION_VARIABLES = ("query_str", "question", "query", "input")


def said(text: str, source: str, start: int = 0, end: int | None = None) -> tuple[Span, ...]:
    """A span over a part of the text without white space around it; none where it has no word."""
    return trimmed(text, start, end, source=source) if any(map(str.isalnum, text[start:end])) else ()


def own_words(text: str, placements: Iterable[Placement], start: int = 0, end: int | None = None) -> list[Span]:
    """What stands in ``text[start:end]`` beside the values that were put in: the words of the template."""
    end, spans = len(text) if end is None else end, list[Span]()
    for placement in sorted(placements, key=lambda p: p.start):
        if start <= placement.start < end:
            spans += said(text, INSTRUCTIONS, start, placement.start)
            start = placement.end
    return [*spans, *said(text, INSTRUCTIONS, start, end)]
