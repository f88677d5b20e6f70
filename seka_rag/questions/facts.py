"""The project's facts: what small models know, how it is asked, how it is stated, and plausible false answers."""

from __future__ import annotations

import functools
import hashlib
import os
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from seka_rag.questions.answers import contains_answer, normalise
from seka_rag.questions.lines import read_lines

Split = Literal["development", "held-out"]
SPLITS: tuple[Split, ...] = ("development", "held-out")
_BLANK = "{answer}"


class Fact(BaseModel):
    """One true fact.

    Attributes:
        id: unique name.
        category: what relation it is (``capital``), by which results may be counted.
        topic: which sentences fit around it in a passage (``country``).
        group: facts of one group fall into one split; by default the subject.
        subject: what it is about, as it stands in the middle of a sentence.
        answers: the true answer and its other spellings; the first one goes into statements.
        alternatives: false answers of the same type, each with its other spellings.
        questions: the same question in at least three wordings.
        cloze: the beginning of a sentence that the answer completes.
        statements: clauses without capital and full stop, each with ``{answer}`` where the answer belongs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    category: str = Field(min_length=1)
    topic: str = Field(min_length=1)
    group: str | None = Field(default=None, min_length=1)
    subject: str = Field(min_length=1)
    answers: tuple[str, ...] = Field(min_length=1)
    alternatives: tuple[tuple[str, ...], ...] = Field(min_length=3)
    questions: tuple[str, ...] = Field(min_length=3)
    cloze: str = Field(min_length=1)
    statements: tuple[str, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _consistent(self) -> Fact:
        for statement in self.statements:
            if statement.count(_BLANK) != 1:
                raise ValueError(f"statements: {statement!r} must hold {_BLANK} once")
        if any(not normalise(answer) for group in (self.answers, *self.alternatives) for answer in group):
            raise ValueError("answers, alternatives: one of them is empty, or only an article or punctuation")
        for text in (*self.questions, self.cloze, *self.statements):
            if contains_answer(text.replace(_BLANK, " "), self.answers):
                raise ValueError(f"questions, cloze, statements: {text!r} gives the answer away")
        for other in self.alternatives:
            if _overlap(other, self.answers):
                raise ValueError(f"alternatives: {other[0]!r} is contained in a true answer, or contains one")
        return self

    @property
    def split(self) -> Split:
        """The side of the split, by a hash of the group: all that is known of one subject is on one side."""
        digest = hashlib.sha256(normalise(self.group or self.subject).encode()).digest()
        return SPLITS[digest[0] % 2]

    def statement(self, wording: int, answer: str) -> str:
        """The clause of this wording with an answer, true or false."""
        return self.statements[wording].replace(_BLANK, answer)


def _overlap(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return any(contains_answer(x, other) for x in one) or any(contains_answer(y, one) for y in other)


def read_facts(path: str | os.PathLike[str]) -> tuple[Fact, ...]:
    """Facts from JSON lines.

    Raises:
        RecordError: the file cannot be read or is empty, a line is wrong (named with its field), or an id stands twice.
    """
    return read_lines(path, Fact)


@functools.cache
def load_facts() -> tuple[Fact, ...]:
    """The facts that come with the library."""
    with resources.as_file(resources.files("seka_rag.questions") / "data" / "facts.jsonl") as path:
        return read_facts(Path(path))
