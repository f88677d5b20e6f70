"""Contrastive triples: what a bank is learned from, and their file format."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from seka_rag.errors import LearningError, SpanError
from seka_rag.text.spans import Span

_FIELDS = ("context", "answer", "question", "irrelevant_question")


@dataclass(frozen=True, slots=True)
class ContrastiveTriple:
    """A context with an answer in it, a question that asks for it, and one that the context does not answer.

    Args:
        context: the text that holds the answer.
        answer: where in the context it stands. Its place is given and never searched for, because the same words may
            stand elsewhere too.
        question: a question that the answer answers.
        irrelevant_question: a question about something else.

    Raises:
        LearningError: an answer that is blank or beyond the context, an empty question, or two equal questions.
    """

    context: str
    answer: Span
    question: str
    irrelevant_question: str

    def __post_init__(self) -> None:
        if self.answer.end > len(self.context):
            raise LearningError(
                f"the answer [{self.answer.start}, {self.answer.end}) reaches beyond the context of "
                f"{len(self.context)} characters"
            )
        if not self.answer_text.strip():
            raise LearningError(f"the answer [{self.answer.start}, {self.answer.end}) is blank: mark words")
        if not self.question.strip() or not self.irrelevant_question.strip():
            raise LearningError("a triple needs a question and an irrelevant question; one of them is empty")
        if self.question.strip() == self.irrelevant_question.strip():
            raise LearningError("the irrelevant question is the question itself: ask something the context lacks")

    @property
    def answer_text(self) -> str:
        """The words of the answer."""
        return self.context[self.answer.start : self.answer.end]


def read_triples(path: str | os.PathLike[str]) -> list[ContrastiveTriple]:
    """Triples from a file of JSON lines ``{context, answer: [start, end], question, irrelevant_question}``.

    Raises:
        LearningError: the file cannot be read, holds no triple, or a line is wrong; the message names file and line.
    """
    triples: list[ContrastiveTriple] = []
    number = 0
    try:
        with open(path, encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, 1):  # noqa: B007 (an error of the file names it too)
                if line.strip():
                    triples.append(_from_json(json.loads(line)))
    except OSError as error:
        raise LearningError(f"cannot read triples from {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise LearningError(f"{path}, after line {number}: not UTF-8 ({error.reason}): save it as UTF-8") from error
    except (ValueError, RecursionError) as error:  # JSON, LearningError and SpanError among them
        raise LearningError(f"{path}, line {number}: {error}") from error
    if not triples:
        raise LearningError(f"{path} holds no triples: write one JSON object a line with {', '.join(_FIELDS)}")
    return triples


def write_triples(path: str | os.PathLike[str], triples: Iterable[ContrastiveTriple]) -> None:
    """Write triples as JSON lines; the file appears whole or not at all. Weights of answers are not kept.

    Raises:
        LearningError: the file cannot be written.
    """
    target = Path(path).absolute()  # "." has no name
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "x", encoding="utf-8", newline="\n") as file:
            for triple in triples:
                file.write(json.dumps(_to_json(triple), ensure_ascii=False) + "\n")
        os.replace(temporary, target)
    except OSError as error:
        raise LearningError(f"cannot write triples to {target}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _to_json(triple: ContrastiveTriple) -> dict[str, object]:
    values = (triple.context, [triple.answer.start, triple.answer.end], triple.question, triple.irrelevant_question)
    return dict(zip(_FIELDS, values, strict=True))


def _from_json(record: object) -> ContrastiveTriple:
    if not isinstance(record, dict) or set(record) != set(_FIELDS):
        raise LearningError(f"expected an object with exactly {', '.join(_FIELDS)}")
    context, answer, question, irrelevant = (record[name] for name in _FIELDS)
    if not all(isinstance(value, str) for value in (context, question, irrelevant)):
        raise LearningError("context, question and irrelevant_question must be strings")
    if not isinstance(answer, list) or len(answer) != 2 or not all(type(edge) is int for edge in answer):
        raise LearningError("answer must be [start, end], two whole numbers that count characters of the context")
    try:
        return ContrastiveTriple(context, Span(*answer), question, irrelevant)
    except SpanError as error:
        raise LearningError(f"answer: {error}") from error
