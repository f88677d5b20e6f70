"""From the value of a context variable to the passages in it that may be highlighted.

A synthesizer hands over text in which the nodes are joined already, each with its metadata in front of it. Where one
node ends and the next begins is not known, so the smallest units that surely lie within one node are the passages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from seka_rag import Passage, Span
from seka_rag.frameworks import Highlighter, choose_spans, shift

_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
_LINE = re.compile(r"\n")
_QUOTED = re.compile(r"(['\"]|\[SQL: )([^'\"\[\]]{12,})(?:['\"]|\])")
#: How LlamaIndex and SQLAlchemy begin and end the statement that failed.
_SQL_ERROR = re.compile(r"\bis invalid SQL\b|\[SQL: ")
#: What engines write before an answer, nothing included.
_LABEL = re.compile(r"\W*|(?:.*\n)?\W*(?:Response|Answer)(?: \d+)?:\s*", re.DOTALL)
_ENTRY = re.compile(r"(?P<key>[^\W\d][\w.-]+):(?: (?P<value>.*)|$)")


@dataclass(frozen=True)
class ContextPassage:
    """A passage and where it begins in the value."""

    passage: Passage
    start: int

    def place(self, spans: Sequence[Span]) -> tuple[Span, ...]:
        """Spans of the passage as spans of the value."""
        return shift(spans, self.start)


def context_passages(name: str, text: str, *, by_line: bool = False) -> list[ContextPassage]:
    """The passages in the text of a variable. Metadata lines are no passages.

    The source of a passage is the variable, never a path that stands in the text: any document could write one there. Each
    counts as a document of its own.

    Args:
        by_line: every line is a passage, instead of every part between blank lines. Most synthesizers join nodes by a
            blank line; ``simple_summarize`` joins them by a line break, where the beginning of one document could be
            taken for the rest of a sentence of the document before it.
    """
    found, start = [], 0
    borders = [(m.start(), m.end()) for m in (_LINE if by_line else _BLANK_LINE).finditer(text)]
    for end, following in [*borders, (len(text), len(text))]:
        part = text[start:end]
        if any(map(str.isalnum, part)) and not is_metadata(part):  # of marks alone there may be no tokens to highlight
            found.append(ContextPassage(Passage(part, source=name, document=f"{name} {start}"), start))
        start = following
    return found


def is_answer(part: str, answers: Iterable[str]) -> bool:
    """Whether a part is what the model answered before, alone, behind a label, or in the error of a database.

    Synthesizers of several levels, and engines that ask several questions ("Response: ...", "Answer: ..."), make contexts
    of answers. A database that was asked in the model's words quotes them in its error; a document may quote them too.
    """
    text = part.strip()
    quoted = [match[2] for match in _QUOTED.finditer(part)] if _SQL_ERROR.search(part) else []
    return any(
        (text.endswith(own) and _LABEL.fullmatch(text[: -len(own)])) or any(words in own for words in quoted)
        for own in map(str.strip, answers)
        if own
    )


def choose(
    passages: Sequence[ContextPassage], question: str, highlighter: Highlighter
) -> tuple[tuple[Span, ...], tuple[str, ...]]:
    """What a highlighter chooses in the passages, in characters of the value, and warnings of its trust policy.

    Raises:
        SpanError: a result that does not fit the passages.
    """
    own = [p.passage for p in passages]
    if not own:
        return (), ()
    chosen = choose_spans(highlighter, question, own)
    spans = (span for passage, spans in zip(passages, chosen.spans, strict=True) for span in passage.place(spans))
    return tuple(spans), chosen.warnings


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
