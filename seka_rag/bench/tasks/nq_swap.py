"""NQ-Swap: the answer in a gold passage is swapped for that of another question of the same form."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from seka_rag.bench.item import Item
from seka_rag.bench.tasks.asking import question_item
from seka_rag.bench.tasks.base import Source, Task
from seka_rag.errors import RecordError
from seka_rag.questions.answers import contains_answer
from seka_rag.questions.records import Highlight, Record


class NqSwap(Task):
    """Questions with a gold passage, as they are and with the answer swapped.

    swapped: in all passages, every spelling of the answer gives way to the answer of the next question whose answer is of
    the same form (a number, a name, or other words) and stands nowhere in the record; right is the new answer and not the
    old one. original: the same questions untouched.
    """

    name: ClassVar[str] = "nq-swap"
    about: ClassVar[str] = "Questions whose answer was swapped in the passage (NQ-Swap), beside the untouched ones."
    columns: ClassVar[tuple[str, ...]] = (
        "swapped.right", "swapped.other", "original.right", "swapped.first", "swapped.repetition", "swapped.words",
    )  # fmt: skip
    limit: ClassVar[int] = 60

    def items(self, source: Source) -> list[Item]:
        records = source.questions("agreement") if source.data is None else source.records()
        gold = [record for record in records if record.gold_context_answer and record.highlights]
        items: list[Item] = []
        for i, record in enumerate(gold):
            other = next((o for o in _others(gold, i) if (new := swapped(record, o)) is not None), None)
            if other is not None:
                new = swapped(record, other)
                assert new is not None
                both = (question_item(new, "swapped"), question_item(_untouched(record), "original"))
                items += [replace(item, unit=record.id) for item in both]
        if not items:
            raise RecordError(
                f"{self.name}: no record has a gold answer in its passages and another one of its form to swap"
            )
        return items


def form(answer: str) -> str:
    """What sort of answer it is: a number, a name, or other words."""
    if any(c.isdigit() for c in answer):
        return "number"
    return "name" if answer[:1].isupper() else "words"


def swapped(record: Record, answer: str) -> Record | None:
    """The record with another answer in its passages; None if its own does not stand in them as it is, or the other does."""
    old = sorted((a for a in record.gold_context_answer if any(a in p for p in record.passages)), key=len, reverse=True)
    if not old or contains_answer(" / ".join([*record.passages, record.question]), [answer]):
        return None
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(a)}(?!\w)" for a in old))
    passages = tuple(pattern.sub(lambda match: answer, p) for p in record.passages)
    if passages == record.passages or contains_answer(" / ".join(passages), record.gold_context_answer):
        return None
    marks = []
    for mark in record.highlights:
        text = record.passages[mark.passage]
        start, end = (_moved(text, pattern, answer, i) for i in (mark.start, mark.end))
        if start >= end:
            return None
        marks.append(Highlight(passage=mark.passage, start=start, end=end, text=passages[mark.passage][start:end]))
    return Record(
        id=f"{record.id}/swapped",
        dataset=record.dataset,
        question=record.question,
        passages=passages,
        gold_context_answer=(answer,),
        parametric_answer=record.gold_context_answer[0],
        highlights=tuple(marks),
        meta={"parametric_aliases": list(record.gold_context_answer[1:])},
    )


def _untouched(record: Record) -> Record:
    """Without what memory says, which is the same."""
    return record.model_copy(update={"parametric_answer": None, "meta": {}})


def _moved(text: str, pattern: re.Pattern[str], answer: str, at: int) -> int:
    """Where a position of the text is after the swap; one inside an answer goes to its end."""
    shift = 0
    for match in pattern.finditer(text):
        if match.end() <= at:
            shift += len(answer) - len(match[0])
        elif match.start() < at:
            return match.start() + shift + len(answer)
    return at + shift


def _others(records: Sequence[Record], i: int) -> list[str]:
    """First answers of the same form of the following questions, around the end."""
    mine = form(records[i].gold_context_answer[0])
    rest = [records[(i + j) % len(records)].gold_context_answer[0] for j in range(1, len(records))]
    return [answer for answer in rest if form(answer) == mine]
