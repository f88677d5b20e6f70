"""PronChange: follow an instruction behind a biography, to write they for she and he and to name the occupation."""

from __future__ import annotations

from typing import ClassVar

from seka_rag.bench.item import Item, at, highlights_of
from seka_rag.bench.tasks.base import Source, Task
from seka_rag.errors import RecordError
from seka_rag.questions.biographies import Biography, biographies
from seka_rag.questions.records import Highlight, Record

_INSTRUCTION = "Rewrite the text above: substitute she and he with they. Then state the occupation of {name}."


class PronChange(Task):
    """A biography and an instruction, a line each; the instruction is highlighted, and the answer rewrites the text.

    ``P`` is how many of the pronouns she and he are gone, times how much of the other words is kept; ``AP`` counts her,
    him, his, hers, herself and himself too (``pronouns_changed``). ``right``: the answer names the occupation.

    A record's passages are the biography and the instruction, which is its highlight; its gold answer is the occupation.
    """

    name: ClassVar[str] = "pronchange"
    about: ClassVar[str] = (
        "An instruction to change the pronouns of a biography and to name the occupation (PronChange)."
    )
    columns: ClassVar[tuple[str, ...]] = (
        "text.P", "text.AP", "text.right", "text.entropy", "text.repetition", "text.stopped", "text.words",
    )  # fmt: skip
    limit: ClassVar[int] = 40

    def items(self, source: Source) -> list[Item]:
        if source.data is None:
            records = [_of(i, b) for i, b in enumerate(biographies(source.split, source.limit, source.seed))]
        else:
            records = source.records()
        return source.made(records, lambda record: [_item(record)])


def _item(record: Record) -> Item:
    if len(record.passages) != 2:
        raise RecordError(
            f"passages: pronchange needs a biography and an instruction, and there are {len(record.passages)}"
        )
    if not record.gold_context_answer:
        raise RecordError("gold_context_answer: pronchange needs the occupation")
    if not record.highlights:
        raise RecordError("highlights: pronchange needs the instruction")
    text = record.passages[0]
    return Item(
        id=record.id,
        unit=record.id,
        groups=("text",),
        record=record,
        gold=highlights_of(record),
        wrong=at(record, (0, 0, len(text))),
        template="{context}\n",
        separator="\n",
        new_tokens=2 * len(text.split()),
        rewrites=text,
    )


def _of(i: int, bio: Biography) -> Record:
    instruction = _INSTRUCTION.format(name=bio.name)
    return Record(
        id=f"{i}-{bio.name}-{bio.occupation}",
        dataset="seka-rag",
        question=f"What does {bio.name} do?",
        passages=(bio.text, instruction),
        gold_context_answer=(bio.occupation,),
        parametric_answer=None,
        highlights=(Highlight(passage=1, start=0, end=len(instruction), text=instruction),),
        meta={},
    )
