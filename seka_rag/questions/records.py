"""Records: a question with its passages, what they say, what memory says, and what is highlighted."""

from __future__ import annotations

import os
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from seka_rag.questions.answers import abstains, contains_answer, follows
from seka_rag.questions.lines import read_lines
from seka_rag.text.passages import TEMPLATE
from seka_rag.text.prompt import Prompt
from seka_rag.text.spans import Span


class Highlight(BaseModel):
    """Characters ``start`` to ``end`` (exclusive) of one passage, with the text that stands there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    passage: int = Field(ge=0)
    start: int = Field(ge=0)
    end: int
    text: str = Field(min_length=1)


class Record(BaseModel):
    """One question over passages: the form of every benchmark's data, ours and users'.

    Attributes:
        id: unique in its file.
        dataset: where it comes from.
        passages: at least one, in the order in which they stand in the prompt.
        gold_context_answer: what the passages answer, in all spellings that count; empty if they do not answer.
        parametric_answer: what memory answers, if it knows.
        highlights: what is marked as evidence, rightly or wrongly.
        meta: anything else. Read here: ``parametric_aliases``, other spellings of the parametric answer, and
            ``other_answers``, which a right answer must not contain.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    dataset: str
    question: str = Field(min_length=1)
    passages: tuple[str, ...] = Field(min_length=1)
    gold_context_answer: tuple[str, ...]
    parametric_answer: str | None
    highlights: tuple[Highlight, ...]
    meta: dict[str, Any]

    @model_validator(mode="after")
    def _consistent(self) -> Record:
        for i, mark in enumerate(self.highlights):
            if mark.passage >= len(self.passages):
                raise ValueError(f"highlights.{i}.passage: {mark.passage}, but there are {len(self.passages)} passages")
            found = self.passages[mark.passage][mark.start : mark.end]
            if found != mark.text:
                raise ValueError(
                    f"highlights.{i}.text: {mark.text!r} is not what stands at [{mark.start}, {mark.end}) of passage "
                    f"{mark.passage}: {found!r}"
                )
        for name in ("parametric_aliases", "other_answers"):
            value = self.meta.get(name, [])
            if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
                raise ValueError(f"meta.{name}: must be a list of strings")
        return self

    @property
    def remembered(self) -> tuple[str, ...]:
        """What memory answers, in all spellings; empty if it does not know."""
        if self.parametric_answer is None:
            return ()
        return tuple(dict.fromkeys([self.parametric_answer, *self.meta.get("parametric_aliases", ())]))

    @property
    def marked(self) -> tuple[Prompt, ...]:
        """The passages with their highlights."""
        return tuple(
            Prompt(text, tuple(Span(h.start, h.end) for h in self.highlights if h.passage == i))
            for i, text in enumerate(self.passages)
        )

    @property
    def message(self) -> Prompt:
        """The question over the marked passages, as ``Rag`` asks it."""
        return Prompt.format(TEMPLATE, {"context": Prompt.join(self.marked, "\n\n"), "question": self.question})

    def is_right(self, text: str) -> bool:
        """Whether a generated answer is right.

        With a gold answer, it must contain that, and neither the remembered one (unless they agree) nor one of
        ``meta["other_answers"]``. Without, it must contain the remembered one; without that either, it must abstain.
        """
        if self.gold_context_answer:
            return follows(text, self.gold_context_answer, [*self.remembered, *self.meta.get("other_answers", ())])
        return contains_answer(text, self.remembered) if self.remembered else abstains(text)


def read_records(path: str | os.PathLike[str]) -> tuple[Record, ...]:
    """Records from JSON lines.

    Raises:
        RecordError: the file cannot be read or is empty, a line is wrong (named with its field), or an id stands twice.
    """
    return read_lines(path, Record)
