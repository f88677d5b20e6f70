"""Highlights on a message, written by the user's code: ``additional_kwargs["seka"]``, valid for one exact text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from langchain_core.messages import BaseMessage

from langchain_seka.messages import MessageError, text_of
from seka_rag import Prompt, Span
from seka_rag.frameworks import KEY, Marks, read_marks, read_span, shift, trimmed, write_marks

_PART = "highlight"


def mark_message(
    message: BaseMessage, spans: Iterable[Span], *, warnings: Sequence[str] = (), unmarked: str | None = None
) -> BaseMessage:
    """A copy of the message whose text is highlighted at the spans, and nowhere else.

    Args:
        spans: characters of its text; with none, nothing in it is found by itself either.
        warnings: what the report of the answer should say about them.
        unmarked: why nothing is marked in the retrieved text that the message holds.

    Raises:
        SpanError: a span beyond the text.
    """
    marks = write_marks(text_of(message), spans, warnings=warnings, unmarked=unmarked)
    return message.model_copy(update={"additional_kwargs": {**message.additional_kwargs, KEY: marks}})


def has_marks(message: BaseMessage) -> bool:
    """Whether the message, or a part of its content, says that something in it is highlighted."""
    return KEY in message.additional_kwargs or any(_PART in block for block in _parts(message))


def marks_of(message: BaseMessage) -> Marks:
    """The spans of a message, and why there are none if it says otherwise.

    A part of the content may have a field ``highlight``: True, a weight, or ``[[start, end, weight], ...]`` in it.

    Raises:
        MessageError: a field of another form.
        SpanError: marks of another form, or a span beyond the text.
    """
    value = message.additional_kwargs.get(KEY)
    marks = Marks() if KEY not in message.additional_kwargs else read_marks(value, text_of(message))
    spans, at = marks.spans, 0
    for block in message.content if isinstance(message.content, list) else ():
        text = block if isinstance(block, str) else block.get("text", "")
        if isinstance(block, dict) and _PART in block:
            spans += shift(_part_spans(block[_PART], text), at)
        at += len(text)
    return replace(marks, spans=spans)


def _parts(message: BaseMessage) -> list[dict[str, Any]]:
    return [b for b in message.content if isinstance(b, dict)] if isinstance(message.content, list) else []


def _part_spans(value: object, text: str) -> tuple[Span, ...]:
    if isinstance(value, list):
        return Prompt(text, tuple(map(read_span, value))).spans
    if not isinstance(value, bool | int | float):
        raise MessageError(
            f"highlight {value!r} of a content part: give True, a weight, or [[start, end, weight], ...]"
        )
    return trimmed(text, weight=float(value)) if value else ()
