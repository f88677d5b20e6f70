"""Spans on a message, written by the user's code: ``additional_kwargs["seka"]``, valid for one exact text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from langchain_core.messages import BaseMessage

from langchain_seka.messages import MessageError, text_of
from seka_rag import Prompt, Span

KEY = "seka"
_PART = "highlight"
_VERSION = 1


def digest(text: str) -> str:
    """What ties spans to the text that they were made for."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def mark_message(message: BaseMessage, spans: Iterable[Span]) -> BaseMessage:
    """A copy of the message whose text is highlighted at the spans.

    Raises:
        SpanError: a span beyond the text.
    """
    text = text_of(message)
    entries = [[s.start, s.end, s.weight, s.source] for s in Prompt(text, tuple(spans)).spans]
    marks = {"version": _VERSION, "digest": digest(text), "spans": entries}
    return message.model_copy(update={"additional_kwargs": {**message.additional_kwargs, KEY: marks}})


def has_marks(message: BaseMessage) -> bool:
    """Whether the message, or a part of its content, says that something in it is highlighted."""
    return KEY in message.additional_kwargs or any(_PART in block for block in _parts(message))


def marks_of(message: BaseMessage) -> tuple[tuple[Span, ...], str | None]:
    """The spans of a message, and why there are none if it says otherwise.

    A part of the content may have a field ``highlight``: True, a weight, or ``[[start, end, weight], ...]`` in it.

    Raises:
        MessageError: marks of another form.
        SpanError: a span beyond the text.
    """
    spans: tuple[Span, ...] = ()
    warning = None
    if KEY in message.additional_kwargs:
        spans, warning = read_marks(message.additional_kwargs[KEY], text_of(message))
    at = 0
    for block in message.content if isinstance(message.content, list) else ():
        text = block if isinstance(block, str) else block.get("text", "")
        if isinstance(block, dict) and _PART in block:
            spans += _shifted(_part_spans(block[_PART], text), at)
        at += len(text)
    return spans, warning


def _parts(message: BaseMessage) -> list[dict]:
    return [b for b in message.content if isinstance(b, dict)] if isinstance(message.content, list) else []


def _part_spans(value: Any, text: str) -> tuple[Span, ...]:
    if isinstance(value, list):
        return Prompt(text, tuple(_span(entry) for entry in value)).spans
    if not isinstance(value, bool | int | float):
        raise MessageError(
            f"highlight {value!r} of a content part: give True, a weight, or [[start, end, weight], ...]"
        )
    start, end = len(text) - len(text.lstrip()), len(text.rstrip())
    return (Span(start, end, float(value)),) if value and start < end else ()


def _shifted(spans: Iterable[Span], by: int) -> tuple[Span, ...]:
    return tuple(Span(s.start + by, s.end + by, s.weight, s.source) for s in spans)


def read_marks(value: Any, text: str) -> tuple[tuple[Span, ...], str | None]:
    """Spans for this text, or none and why: a text that was cut or edited since has other characters there.

    Raises:
        MessageError: not of the form ``{"version": 1, "digest": ..., "spans": [[start, end, weight], ...]}``.
        SpanError: a span beyond the text.
    """
    if not isinstance(value, dict) or not isinstance(value.get("spans"), list) or "digest" not in value:
        raise MessageError(
            f'additional_kwargs["{KEY}"] must be {{"version": 1, "digest": ..., "spans": [[start, end, weight]]}}; '
            "let mark_message write it"
        )
    if value.get("version") != _VERSION:
        return (), f"highlights of version {value.get('version')!r} are not understood; they were dropped"
    if value["digest"] != digest(text):
        return (), "its text changed after it was highlighted; the highlights were dropped"
    return Prompt(text, tuple(_span(entry) for entry in value["spans"])).spans, None


def _span(entry: Any) -> Span:
    if not isinstance(entry, list | tuple) or not 2 <= len(entry) <= 4:
        raise MessageError(f"highlight {entry!r}: give [start, end], [start, end, weight] or [..., source]")
    start, end = entry[:2]
    weight = entry[2] if len(entry) > 2 else 1.0
    source = entry[3] if len(entry) > 3 else None
    if not isinstance(start, int) or not isinstance(end, int) or isinstance(weight, bool | str):
        raise MessageError(f"highlight {entry!r}: start and end are characters (int), weight is a number")
    return Span(start, end, float(weight), source)
