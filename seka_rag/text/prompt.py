"""A prompt: text plus the spans in it that the model should attend to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from string import Formatter
from typing import Literal

from seka_rag.errors import SpanError
from seka_rag.text.spans import Span, clip, merge, shift
from seka_rag.text.surrogates import check_characters


@dataclass(frozen=True, slots=True)
class Prompt:
    """Text with highlight spans. Immutable: every operation returns a new prompt.

    >>> p = Prompt("Context: Ada moved to Lyon in 2021.").highlight("moved to Lyon")
    >>> p.highlighted
    ('moved to Lyon',)
    >>> (Prompt("Note. ") + p).spans[0].start
    19

    Raises:
        SpanError: a span reaches beyond the text.
        TokenizationError: the text holds half of a surrogate pair, which is no character.
    """

    text: str
    spans: tuple[Span, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise TypeError(f"Prompt takes a str, not {type(self.text).__name__}")
        check_characters(self.text)
        object.__setattr__(self, "spans", tuple(self.spans))
        for span in self.spans:
            if span.end > len(self.text):
                raise SpanError(
                    f"span [{span.start}, {span.end}) reaches beyond the text of {len(self.text)} characters"
                )

    def __str__(self) -> str:
        return self.text

    def __len__(self) -> int:
        return len(self.text)

    @property
    def highlighted(self) -> tuple[str, ...]:
        """The highlighted pieces of text, in order, overlaps joined."""
        return tuple(self.text[s.start : s.end] for s in merge(self.spans))

    def mark(self, start: int, end: int, weight: float = 1.0, source: str | None = None) -> Prompt:
        """Highlight the characters ``[start, end)``."""
        return replace(self, spans=(*self.spans, Span(start, end, weight, source)))

    def highlight(
        self,
        text: str,
        weight: float = 1.0,
        *,
        occurrence: int | Literal["all"] | None = None,
        source: str | None = None,
    ) -> Prompt:
        """Highlight a piece of the prompt, given by its own words.

        Args:
            text: the exact characters to highlight.
            weight: multiplies the gain.
            occurrence: which match to take if there are several: 0 for the first, -1 for the last, "all" for all.

        Raises:
            SpanError: the text is empty, is not in the prompt, or stands there more than once and ``occurrence``
                does not say which is meant.
        """
        if not isinstance(text, str):
            raise SpanError(f"give one text to highlight, not {text!r}")
        if not text.strip():
            raise SpanError("the text to highlight is empty")
        if occurrence not in (None, "all") and type(occurrence) is not int:
            raise SpanError(f"occurrence={occurrence!r}: give 0 for the first match, -1 for the last, or 'all'")
        starts = [m.start() for m in re.finditer(f"(?={re.escape(text)})", self.text)]
        if not starts:
            raise SpanError(
                f"{_shown(text)} is not in the prompt of {len(self.text)} characters; it must match exactly"
            )
        if occurrence is None and len(starts) > 1:
            raise SpanError(
                f"{_shown(text)} stands {len(starts)} times in the prompt (at characters {_listed(starts)}): say which "
                "with occurrence=0 (first), -1 (last) or 'all', or give a longer piece of text"
            )
        if isinstance(occurrence, int):
            if not -len(starts) <= occurrence < len(starts):
                raise SpanError(f"occurrence={occurrence}, but {_shown(text)} stands only {len(starts)} time(s) there")
            starts = [starts[occurrence]]
        new = (Span(start, start + len(text), weight, source) for start in starts)
        return replace(self, spans=(*self.spans, *new))

    def plain(self) -> Prompt:
        """The same text without highlights."""
        return Prompt(self.text)

    def __add__(self, other: Prompt | str) -> Prompt:
        other = _as_prompt(other)
        return Prompt(self.text + other.text, self.spans + shift(other.spans, len(self.text)))

    def __radd__(self, other: str) -> Prompt:
        return Prompt(other) + self

    def __getitem__(self, index: slice) -> Prompt:
        """A piece of the prompt, ``prompt[a:b]``, with the highlights that lie in it."""
        if not isinstance(index, slice):
            raise TypeError(f"a prompt is sliced, prompt[a:b], not indexed by {index!r}")
        start, stop, step = index.indices(len(self.text))
        if step != 1:
            raise SpanError("a prompt can only be sliced with step 1")
        stop = max(start, stop)
        return Prompt(self.text[start:stop], shift(clip(self.spans, start, stop), -start))

    @staticmethod
    def join(parts: Iterable[Prompt | str], separator: str) -> Prompt:
        """Parts joined by a separator, spans kept.

        The separator must be given, so that ``Prompt(", ").join(parts)``, as with ``str``, is an error and loses none.
        """
        texts: list[str] = []
        spans: list[Span] = []
        length = 0
        for part in map(_as_prompt, parts):
            length += len(separator) if texts else 0
            spans += shift(part.spans, length)
            texts.append(part.text)
            length += len(part.text)
        return Prompt(separator.join(texts), tuple(spans))

    @staticmethod
    def format(template: str, values: Mapping[str, Prompt | str]) -> Prompt:
        """Fill ``{name}`` fields of a template; spans of the values are kept, their braces are not fields.

        Raises:
            SpanError: a field that ``values`` lacks, or one with a conversion or format.
        """
        parts: list[Prompt | str] = []
        for literal, field, spec, conversion in Formatter().parse(template):
            parts.append(literal)
            if field is None:
                continue
            if spec or conversion or field not in values:
                raise SpanError(f"template field {{{field}}}: expected one of {sorted(values)}, without conversion")
            parts.append(values[field])
        return Prompt.join(parts, "")


def _as_prompt(value: Prompt | str) -> Prompt:
    return value if isinstance(value, Prompt) else Prompt(value)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _listed(starts: list[int]) -> str:
    return ", ".join(map(str, starts[:5])) + (", ..." if len(starts) > 5 else "")
