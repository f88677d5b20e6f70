"""Highlights as plain data beside the text of a message, valid for that one text and no other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from seka_rag.errors import SpanError
from seka_rag.frameworks.citing import Citable
from seka_rag.text.prompt import Prompt
from seka_rag.text.spans import Span

#: Where a message carries its marks, and an answer its report.
KEY = "seka"
VERSION = 1


@dataclass(frozen=True)
class Marks:
    """What a message says of its highlights.

    Attributes:
        warnings: what the report should say of them.
        unmarked: why nothing is marked in the retrieved passages that it holds, or why its marks were dropped.
        citable: the documents that it holds, where the answer is to cite them.
    """

    spans: tuple[Span, ...] = ()
    warnings: tuple[str, ...] = ()
    unmarked: str | None = None
    citable: Citable = field(default_factory=Citable)


def digest(text: str) -> str:
    """What ties marks to the text that they were made for."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def write_marks(
    text: str,
    spans: Iterable[Span],
    *,
    warnings: Sequence[str] = (),
    unmarked: str | None = None,
    citable: Citable | None = None,
) -> dict[str, object]:
    """Highlights as plain data, tied to their text.

    Raises:
        SpanError: a span beyond the text.
    """
    entries = [[s.start, s.end, s.weight, s.source] for s in Prompt(text, tuple(spans)).spans]
    marks: dict[str, object] = {"version": VERSION, "digest": digest(text), "spans": entries}
    if warnings:
        marks["warnings"] = list(warnings)
    if unmarked is not None:
        marks["unmarked"] = unmarked
    if citable is not None and citable.excerpts:
        marks["citable"] = citable.as_data()
    return marks


def is_report(value: object) -> bool:
    """Whether it is the report of an earlier answer, which stands under the same key."""
    return isinstance(value, Mapping) and "highlights" in value and "spans" not in value


def read_marks(value: object, text: str, message: int = 0) -> Marks:
    """The marks for this text. If it was cut or edited since, other characters stand there: then none, and a warning.

    Raises:
        SpanError: not of the form that ``write_marks`` writes, or a span beyond the text.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("spans"), list) or "digest" not in value:
        raise SpanError(
            f'additional_kwargs["{KEY}"] must be {{"version": {VERSION}, "digest": ..., "spans": [[start, end, weight]]}}; '
            "let mark_message write it"
        )
    warnings, unmarked = tuple(map(str, value.get("warnings") or ())), value.get("unmarked")
    if value.get("version") != VERSION:
        why = f"highlights of version {value.get('version')!r} are not understood; they were dropped"
        return Marks((), (*warnings, why), why)
    if value["spans"] and value["digest"] != digest(text):
        why = "its text changed after it was highlighted; the highlights were dropped"
        return Marks((), (*warnings, why), why)
    citable = (
        Citable.of_data(value["citable"], message)
        if "citable" in value and value["digest"] == digest(text)
        else Citable()
    )
    return Marks(Prompt(text, tuple(map(read_span, value["spans"]))).spans, warnings, unmarked, citable)


def read_span(entry: object) -> Span:
    """A span of ``[start, end]``, ``[start, end, weight]`` or ``[start, end, weight, source]``.

    Raises:
        SpanError: another form.
    """
    if not isinstance(entry, Sequence) or isinstance(entry, str) or not 2 <= len(entry) <= 4:
        raise SpanError(
            f"highlight {entry!r}: give [start, end], [start, end, weight] or [..., source]; mark_message writes it so"
        )
    start, end = entry[:2]
    weight = entry[2] if len(entry) > 2 else 1.0
    source = entry[3] if len(entry) > 3 else None
    whole = type(start) is int and type(end) is int
    if not whole or isinstance(weight, bool) or not isinstance(weight, int | float):
        raise SpanError(
            f"highlight {entry!r}: start and end are characters (int), weight is a number; mark_message writes it so"
        )
    return Span(start, end, float(weight), source)
