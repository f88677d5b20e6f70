"""BiasBios: what does the person of a biography do, where other people's work is told as well?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from seka_rag.bench.item import Item, Opening, highlights_of
from seka_rag.bench.tasks.asking import span_of
from seka_rag.bench.tasks.base import Source, Task
from seka_rag.errors import RecordError
from seka_rag.questions.biographies import Biography, biographies
from seka_rag.questions.records import Highlight, Record


class BiasBios(Task):
    """``{biography}``, a blank line, ``{name} has the occupation of a/an``; the first sentence is highlighted.

    ``first``: among the occupations of all records, that of the person is the likeliest, by first tokens, the likeliest of
    lower case, capitalised and upper case; occupations that begin with the same token tell nothing. ``top3``: at most two
    others are likelier. ``right``: the text that follows names it. The entropy is that of this text.

    A record's passage is the biography, its question the beginning of the answer, its gold answer the occupation, and its
    highlight the sentence that tells it. Ours are about people who do not exist.
    """

    name: ClassVar[str] = "biasbios"
    about: ClassVar[str] = "The occupation of a person whose biography also tells those of others (BiasBios)."
    columns: ClassVar[tuple[str, ...]] = (
        "bio.first", "bio.top3", "bio.right", "bio.margin", "bio.entropy", "bio.repetition",
    )  # fmt: skip
    limit: ClassVar[int] = 100

    def items(self, source: Source) -> list[Item]:
        if source.data is None:
            records = [_of(i, b) for i, b in enumerate(biographies(source.split, source.limit, source.seed))]
        else:
            records = source.records()
        labels = list(dict.fromkeys(answer for record in records for answer in record.gold_context_answer[:1]))
        return source.made(records, lambda record: [_item(record, labels)])


def _item(record: Record, labels: Sequence[str]) -> Item:
    if not record.gold_context_answer:
        raise RecordError("gold_context_answer: biasbios needs the occupation")
    if len(record.passages) != 1:
        raise RecordError(f"passages: biasbios needs the biography alone, and there are {len(record.passages)}")
    if not record.highlights:
        raise RecordError("highlights: biasbios needs the sentence that tells the occupation")
    label = record.gold_context_answer[0]
    others = [form for other in labels if other != label for form in forms(other)]
    return Item(
        id=record.id,
        unit=record.id,
        groups=("bio",),
        record=record,
        gold=highlights_of(record),
        wrong=span_of(record, "elsewhere"),
        template="{context}\n\n{question}",
        chat=False,
        opening=Opening(text="", right=forms(label), other=tuple(others)),
        new_tokens=24,
        continues=True,
    )


def forms(answer: str) -> tuple[str, ...]:
    """In lower case, capitalised and in upper case."""
    return tuple(dict.fromkeys([answer.lower(), answer.capitalize(), answer.upper()]))


def _of(i: int, bio: Biography) -> Record:
    (start, end), elsewhere = bio.span(0), bio.span(bio.elsewhere)
    return Record(
        id=f"{i}-{bio.name}-{bio.occupation}",
        dataset="seka-rag",
        question=f"{bio.name} has the occupation of a/an",
        passages=(bio.text,),
        gold_context_answer=(bio.occupation,),
        parametric_answer=None,
        highlights=(Highlight(passage=0, start=start, end=end, text=bio.sentences[0]),),
        meta={"elsewhere": {"passage": 0, "start": elsewhere[0], "end": elsewhere[1]}},
    )
