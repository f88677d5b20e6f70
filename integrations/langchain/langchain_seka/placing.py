"""Where passages stand inside a text that was made of them, such as the value of a prompt's ``{context}``.

White space may differ (joined lines, indentation), and a passage may be cut off at its end. Nothing else may: a
passage that was rewritten is not found, and nothing is marked for it.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from seka_rag import Span

#: A passage that is cut off must still stand there with this many characters, and this share of them.
_LEAST_CHARS, _LEAST_SHARE = 32, 0.25


@dataclass(frozen=True)
class _Squeezed:
    """A text with each run of white space as one space, and where each of its characters stood before."""

    text: str
    where: list[int]

    @classmethod
    def of(cls, text: str) -> _Squeezed:
        pieces: list[str] = []
        where: list[int] = []
        for match in re.finditer(r"\S+", text):
            if where:
                pieces.append(" ")
                where.append(match.start() - 1)
            pieces.append(match.group())
            where.extend(range(match.start(), match.end()))
        return cls("".join(pieces), where)


@dataclass(frozen=True)
class Place:
    """One passage in one text: the characters of the one beside those of the other."""

    passage: _Squeezed
    text: _Squeezed
    start: int  # in the squeezed text
    length: int

    def move(self, span: Span) -> Span | None:
        """A span of the passage as a span of the text; None if that part of the passage was cut off."""
        first = bisect_left(self.passage.where, span.start)
        last = min(bisect_left(self.passage.where, span.end), self.length)
        while first < last and self.passage.text[first] == " ":
            first += 1
        if first >= last:
            return None
        start, end = self.text.where[self.start + first], self.text.where[self.start + last - 1] + 1
        return Span(start, end, span.weight, span.source)


def place_passages(passages: Sequence[str], text: str) -> dict[int, Place]:
    """Index of a passage -> where it stands in the text; one that is not there is absent.

    No two share a character. The longest is placed first, so that a short passage which repeats a sentence of a long
    one gets its own place and not a part of the other's.
    """
    squeezed = _Squeezed.of(text)
    found: dict[int, Place] = {}
    taken: list[tuple[int, int]] = []
    for i in sorted(range(len(passages)), key=lambda i: -len(passages[i])):
        passage = _Squeezed.of(passages[i])
        at = _find(squeezed.text, passage.text, taken)
        if at is not None:
            found[i] = Place(passage, squeezed, *at)
            taken.append((at[0], at[0] + at[1]))
    return found


def _find(text: str, passage: str, taken: list[tuple[int, int]]) -> tuple[int, int] | None:
    """Start and length of the passage, or of its longest beginning that is long enough."""
    if not passage:
        return None
    for start in _occurrences(text, passage, taken):
        if _stands_alone(text, start, start + len(passage)):
            return start, len(passage)
    probe = passage[: max(_LEAST_CHARS, int(_LEAST_SHARE * len(passage)))]
    for start in _occurrences(text, probe, taken) if len(probe) < len(passage) else ():
        limit = min((s for s, _ in taken if s >= start), default=len(text))
        length = len(probe)
        while length < len(passage) and start + length < limit and text[start + length] == passage[length]:
            length += 1
        return start, length
    return None


def _occurrences(text: str, needle: str, taken: list[tuple[int, int]]) -> list[int]:
    starts, at = [], text.find(needle)
    while at >= 0:
        over = [end for start, end in taken if start < at + len(needle) and end > at]
        if not over:
            starts.append(at)
        at = text.find(needle, max([at + 1, *over]))
    return starts


def _stands_alone(text: str, start: int, end: int) -> bool:
    """Whether no word continues across either border, as in a short passage "art" inside "party"."""
    before, after = text[max(0, start - 1) : start + 1], text[end - 1 : end + 1]
    return not any(len(pair) == 2 and (pair.isalnum()) for pair in (before, after))
