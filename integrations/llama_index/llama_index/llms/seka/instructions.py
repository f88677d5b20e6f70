"""Instructions as highlights, for those who ask for it: what the system prompt says, and what the user asks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.llms.seka.marks import KEY, mark_message

from seka_rag import Placement, Span

Instructions = Literal["off", "system", "user", "all"]
SOURCE = "instruction"
#: How ReActAgent begins a message of the user's role that holds what a tool returned.
_OBSERVATION = "Observation:"
SYSTEM_ROLES = frozenset({MessageRole.SYSTEM, MessageRole.DEVELOPER})


def whole(text: str, start: int = 0, end: int | None = None) -> tuple[Span, ...]:
    """A span over a part of the text without white space around it; none where it has no word."""
    part = text[start:end]
    first = start + len(part) - len(part.lstrip())
    last = start + len(part.rstrip())
    return (Span(first, last, 1.0, SOURCE),) if any(map(str.isalnum, part)) else ()


def written_by_template(text: str, start: int, end: int, placements: Iterable[Placement]) -> list[Span]:
    """What stands in ``[start, end)`` beside the values that were put in: the template's own words."""
    spans: list[Span] = []
    for placement in sorted(placements, key=lambda p: p.start):
        if start <= placement.start < end:
            spans += whole(text, start, placement.start)
            start = placement.end
    return [*spans, *whole(text, start, end)]


def mark_instructions(messages: Sequence[ChatMessage], asked: Instructions) -> list[ChatMessage]:
    """Messages of a call with the system's messages and the last of the user's highlighted, where asked.

    A message that carries marks already, even empty ones, was filled from a template or marked by hand: it stays.
    """
    last = max((i for i, m in enumerate(messages) if m.role == MessageRole.USER), default=None)
    if last is not None and (messages[last].content or "").startswith(_OBSERVATION):
        last = None
    marked = list(messages)
    for i, message in enumerate(messages):
        system = asked in ("system", "all") and message.role in SYSTEM_ROLES
        user = asked in ("user", "all") and i == last
        if (system or user) and KEY not in message.additional_kwargs:
            marked[i] = mark_message(message, whole(message.content or ""))
    return marked
