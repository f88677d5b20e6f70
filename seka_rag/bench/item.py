"""Item: one prompt of a benchmark, what can be highlighted in it, and how its answers are judged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from seka_rag.questions.records import Record
from seka_rag.text.passages import Passage
from seka_rag.text.prompt import Prompt
from seka_rag.text.spans import Span

#: Spans of each passage, in characters of its text.
Spans = tuple[tuple[Span, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Opening:
    """Where an answer begins, and the first words that tell what it follows.

    Attributes:
        text: how the answer opens ("The capital of France is"); the next token is read.
        right, other: answers that are right there, and those that it is compared with, in all forms that count.
        spaced: whether a space stands between the opening and the answer.
    """

    text: str
    right: tuple[str, ...]
    other: tuple[str, ...]
    spaced: bool = True


@dataclass(frozen=True, kw_only=True)
class Item:
    """One prompt.

    Attributes:
        id: unique in its task.
        unit: what is counted: the outcomes of items of one unit are averaged before anything else.
        groups: the parts of the task's table that it counts in.
        record: question, passages and answers.
        gold, wrong: what the highlights "gold" and "wrong" are; None where there is no such thing.
        template: the text with the fields ``{context}`` and ``{question}``.
        separator: between passages.
        chat: whether the text is a user's message, for a model with a chat template; else it is continued as it is.
        opening: where the first token is read; None if it is not.
        new_tokens: most tokens of a generated answer; 0 for none.
        continues: whether the answer is generated behind the opening, as the end of a sentence that the prompt begins.
        rewrites: a text that the answer is to rewrite with other pronouns; None if it is not.
    """

    id: str
    unit: str
    groups: tuple[str, ...]
    record: Record
    gold: Spans | None
    wrong: Spans | None
    template: str
    separator: str = "\n\n"
    chat: bool = True
    opening: Opening | None = None
    new_tokens: int = 0
    continues: bool = False
    rewrites: str | None = None

    @property
    def passages(self) -> tuple[Passage, ...]:
        return tuple(Passage(text) for text in self.record.passages)

    def prompt(self, spans: Spans, *, before: str = "") -> Prompt:
        """The text with these highlights.

        Args:
            before: stands at the beginning, a blank line away.
        """
        marked = [Prompt(text, some) for text, some in zip(self.record.passages, spans, strict=True)]
        return self.around(marked, before)

    def around(self, passages: Sequence[Prompt], before: str = "") -> Prompt:
        """The text with these passages in place of the record's."""
        context = Prompt.join(passages, self.separator)
        text = Prompt.format(self.template, {"context": context, "question": self.record.question})
        return f"{before}\n\n" + text if before else text


def digest_of(items: Sequence[Item]) -> str:
    """A short name for exactly these items."""
    data = [{**asdict(item), "record": item.record.model_dump()} for item in items]
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def at(record: Record, *marks: tuple[int, int, int]) -> Spans:
    """Spans of each passage of a record, from ``(passage, start, end)``."""
    return tuple(tuple(Span(s, e) for p, s, e in marks if p == i) for i in range(len(record.passages)))


def highlights_of(record: Record) -> Spans | None:
    """The record's own highlights; None if it has none."""
    return at(record, *((h.passage, h.start, h.end) for h in record.highlights)) if record.highlights else None
