"""What the demo on a real model asks: questions over four documents, written once and not chosen by their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from seka_rag.retrieval.bm25 import BM25Retriever
from seka_rag.retrieval.documents import read_documents
from seka_rag.retrieval.split import split
from seka_rag.text.passages import Passage


@dataclass(frozen=True)
class Asked:
    """A question over the documents.

    Attributes:
        about: what makes it hard.
        answers: what the documents answer, in all spellings; empty if they do not answer.
        remembered: what the model may answer from memory instead.
        passages: how many are retrieved.
    """

    question: str
    about: str
    answers: tuple[str, ...]
    remembered: tuple[str, ...] = ()
    passages: int = 4


QUESTIONS: tuple[Asked, ...] = (
    Asked("What is the capital of Australia?", "contradicts memory", ("Perth",), ("Canberra", "Sydney")),
    Asked("What is the currency of Brazil?", "contradicts memory", ("florin",), ("real",)),
    Asked("Who wrote Hamlet?", "contradicts memory", ("Thomas Kyd", "Kyd"), ("Shakespeare",)),
    Asked("What is the chemical symbol for gold?", "contradicts memory", ("Go",), ("Au",)),
    Asked(
        "How many days of leave does somebody have after more than five years?",
        "a detail of a policy",
        ("29",),
        ("24",),
    ),
    Asked("On which day is the yard room closed?", "a detail of a policy", ("Wednesday", "Wednesdays"), ()),
    Asked(
        "From which platform does the night tram to Oakfield leave?", "in the middle of ten passages", ("6",), (), 10
    ),
    Asked("What does a night ticket cost?", "in the middle of ten passages", ("3.80",), (), 10),
    Asked("Which actor plays the ghost at the Lantern Theatre?", "not in the documents", ()),
)


def library_folder() -> Path:
    """The documents."""
    return Path(str(files("seka_rag") / "demo" / "library_documents"))


class InOrder:
    """BM25 whose passages stand in the order of the documents, so that the best one is not always first."""

    def __init__(self, k: int) -> None:
        self._passages = split(read_documents(library_folder()), max_chars=200)
        self._bm25 = BM25Retriever(self._passages, k=k)

    def __call__(self, question: str) -> Sequence[Passage]:
        found = {passage.text for passage in self._bm25(question)}
        return [passage for passage in self._passages if passage.text in found]
