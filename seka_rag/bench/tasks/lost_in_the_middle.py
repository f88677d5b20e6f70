"""Lost in the middle: does it matter where among the documents the answer stands?"""

from __future__ import annotations

from typing import ClassVar

from seka_rag.bench.item import Item, at, highlights_of
from seka_rag.bench.tasks.base import Source, Task
from seka_rag.errors import RecordError
from seka_rag.questions.records import Highlight, Record

TEMPLATE = "Answer the question in one short phrase.\n\nContext:\n{context}\n\nQuestion: {question}\nAnswer:"


def _columns(positions: tuple[int, ...]) -> tuple[str, ...]:
    return ("all.right", *(f"position-{k}.right" for k in positions), "all.repetition", "all.words")


class LostInTheMiddle(Task):
    """Ten documents, one of which answers; ``position-k``: it is the one of index k. ``all``: at any position.

    Our own questions are about invented things, each asked with the answer at five positions. A file's records keep their
    order and their documents, and the first highlight says where the answer is. Right: the answer contains a gold one.

    Attributes:
        documents: of our own questions.
        positions: of the document that answers.
    """

    name: ClassVar[str] = "lost-in-the-middle"
    about: ClassVar[str] = "Ten documents, one of which answers, by the position of that document."
    documents: ClassVar[int] = 10
    positions: ClassVar[tuple[int, ...]] = (0, 2, 4, 7, 9)
    columns: ClassVar[tuple[str, ...]] = _columns(positions)
    by_position: ClassVar[str] = "right"
    highlights: ClassVar[tuple[str, ...]] = ("gold", "sentences", "all")
    limit: ClassVar[int] = 20
    quick_limit: ClassVar[int] = 2

    def items(self, source: Source) -> list[Item]:
        if source.data is not None:
            return source.made(source.records(), lambda record: [_item(record, record.id)])
        made = source.questions("novel", known=False, passages=(self.documents, self.documents))
        return [_item(placed(record, k), record.id) for record in made for k in self.positions]


class LostInTheMiddle20(LostInTheMiddle):
    """The same among twenty documents."""

    name: ClassVar[str] = "lost-in-the-middle-20"
    about: ClassVar[str] = "Twenty documents, one of which answers, by the position of that document."
    documents: ClassVar[int] = 20
    positions: ClassVar[tuple[int, ...]] = (0, 4, 9, 14, 19)
    columns: ClassVar[tuple[str, ...]] = _columns(positions)


def placed(record: Record, position: int) -> Record:
    """The record with its highlighted passage at another index; the others keep their order."""
    gold = record.highlights[0].passage
    order = [i for i in range(len(record.passages)) if i != gold]
    order.insert(position, gold)
    marks = tuple(
        Highlight(passage=order.index(m.passage), start=m.start, end=m.end, text=m.text) for m in record.highlights
    )
    passages = tuple(record.passages[i] for i in order)
    name = f"{record.id}/{position}"
    return record.model_copy(update={"id": name, "passages": passages, "highlights": marks, "meta": {}})


def _item(record: Record, unit: str) -> Item:
    if not record.highlights or not record.gold_context_answer:
        field = "gold_context_answer" if record.highlights else "highlights"
        raise RecordError(f"{field}: lost-in-the-middle needs a gold answer and a highlight where it stands")
    gold = record.highlights[0].passage
    other = (gold + 1) % len(record.passages)
    return Item(
        id=record.id,
        unit=unit,
        groups=("all", f"position-{gold}"),
        record=record,
        gold=highlights_of(record),
        wrong=at(record, (other, 0, len(record.passages[other]))) if other != gold else None,
        template=TEMPLATE,
        new_tokens=32,
    )
