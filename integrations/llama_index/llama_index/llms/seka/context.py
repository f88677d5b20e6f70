"""From the value of a context variable to the passages in it that may be highlighted.

A synthesizer hands over text in which the nodes are joined already, each with its metadata in front of it. Where one
node ends and the next begins is not known, so the smallest units that surely lie within one node are the passages.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from seka_rag import Passage, Span

_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
_LINE = re.compile(r"\n")
_ENTRY = re.compile(r"(?P<key>[^\W\d][\w.-]+):(?: (?P<value>.*)|$)")


@dataclass(frozen=True)
class ContextPassage:
    """A passage and where each of its characters, and its end, stand in the rendered value."""

    passage: Passage
    positions: Sequence[int]

    def place(self, spans: Sequence[Span]) -> list[Span]:
        """Spans of the passage as spans of the rendered value."""
        return [Span(self.positions[s.start], self.positions[s.end], s.weight, s.source) for s in spans]


def context_passages(name: str, value: Any) -> list[ContextPassage]:
    """The passages in a variable's value: a str, or a list of them as ``simple_summarize`` passes it.

    Most synthesizers join nodes by a blank line, so each part between blank lines is a passage. ``simple_summarize``
    joins them by a line break and puts the result into a list: there each line is one, or the beginning of one
    document could be taken for the end of the sentence before it. Metadata lines are no passages.

    The source of a passage is the variable, never a path that stands in the text: any document could write one there.
    """
    if isinstance(value, str):
        return _split(name, value, range(len(value) + 1), _BLANK_LINE)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        found, start = [], 1  # templates render a list as Python does: ['...', '...']
        for item in value:
            found += _split(name, item, _positions_in_repr(item, start), _LINE)
            start += len(repr(item)) + len(", ")
        return found
    return []


def _split(name: str, text: str, positions: Sequence[int], separator: re.Pattern[str]) -> list[ContextPassage]:
    found, start = [], 0
    for end, following in [*((m.start(), m.end()) for m in separator.finditer(text)), (len(text), len(text))]:
        part = text[start:end]
        if part.strip() and not is_metadata(part):
            found.append(ContextPassage(Passage(part, source=name), positions[start : end + 1]))
        start = following
    return found


def is_metadata(part: str) -> bool:
    """Whether lines look like a node's metadata, ``file_path: notes.txt``, as LlamaIndex writes it by default.

    Keys of code-like form (``file_path``, ``author``) count always, with all lines that follow, as values may have
    several. Of capitalised ones (``Title: ...``), which also begin lines of prose, only a part where no value is a
    sentence counts. In doubt a part is taken for metadata: that leaves it unmarked, and nothing worse.
    """
    entries = [_ENTRY.match(line) for line in part.strip().split("\n")]
    if entries[0] is not None and entries[0]["key"][0].islower():
        return True
    return all(entry is not None and not _is_sentence(entry["value"] or "") for entry in entries)


def _is_sentence(value: str) -> bool:
    return value.rstrip().endswith((".", "!", "?")) and len(value.split()) >= 4


def _positions_in_repr(text: str, start: int) -> list[int]:
    """Where each character of the text, and its end, stand in ``repr(text)`` that begins at ``start``."""
    quote = repr(text)[0]
    positions = [start + 1]
    for character in text:
        width = 2 if character == quote else len(repr(character)) - 2
        positions.append(positions[-1] + width)
    return positions
