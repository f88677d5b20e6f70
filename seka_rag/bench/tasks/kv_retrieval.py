"""Key-value retrieval: read one value out of a JSON object of random pairs."""

from __future__ import annotations

import random
import uuid
from dataclasses import replace
from typing import ClassVar

from seka_rag.bench.item import Item, at, highlights_of
from seka_rag.bench.tasks.base import Source, Task
from seka_rag.errors import RecordError
from seka_rag.questions.records import Highlight, Record

TEMPLATE = (
    "Extract the value corresponding to the specified key in the JSON object below.\n\nJSON data:\n{{{context}}}\n\n"
    'Key: "{question}"\nCorresponding value:'
)
PAIRS = 20
POSITIONS = (0, 10, 19)


class KvRetrieval(Task):
    """One value of a JSON object of random pairs; ``position-k``: its pair is the one of index k. Right: the exact value.

    Our own objects have 20 pairs; a file's records are one pair a passage, with the key as question.
    """

    name: ClassVar[str] = "kv-retrieval"
    about: ClassVar[str] = "One value out of a JSON object of random keys and values, by position."
    columns: ClassVar[tuple[str, ...]] = ("all.right", *(f"position-{k}.right" for k in POSITIONS))
    by_position: ClassVar[str] = "right"
    limit: ClassVar[int] = 20
    quick_limit: ClassVar[int] = 2

    def items(self, source: Source) -> list[Item]:
        if source.data is not None:
            return source.made(source.records(), lambda record: [_item(record)])
        made = [_made(source.seed, i, k) for i in range(source.limit) for k in POSITIONS]
        return [replace(_item(record), unit=record.id.rsplit("/", 1)[0]) for record in made]


def _made(seed: int, i: int, position: int) -> Record:
    rng = random.Random(f"kv {seed} {i}")
    pairs = [tuple(str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(2)) for _ in range(PAIRS)]
    key, value = pairs[position]
    texts = [f'"{k}": "{v}"' for k, v in pairs]
    return Record(
        id=f"kv-{seed}-{i}/{position}",
        dataset="seka-rag",
        question=key,
        passages=tuple(texts),
        gold_context_answer=(value,),
        parametric_answer=None,
        highlights=(Highlight(passage=position, start=0, end=len(texts[position]), text=texts[position]),),
        meta={},
    )


def _item(record: Record) -> Item:
    gold = next((i for i, text in enumerate(record.passages) if f'"{record.question}"' in text), None)
    if gold is None or not record.gold_context_answer:
        field = "passages" if gold is None else "gold_context_answer"
        raise RecordError(f"{field}: key-value retrieval needs a value, and a passage with the key {record.question!r}")
    other = (gold + 1) % len(record.passages)
    whole = (gold, 0, len(record.passages[gold]))
    return Item(
        id=record.id,
        unit=record.id,
        groups=("all", f"position-{gold}"),
        record=record,
        gold=highlights_of(record) or at(record, whole),
        wrong=at(record, (other, 0, len(record.passages[other]))) if other != gold else None,
        template=TEMPLATE,
        separator=",\n ",
        new_tokens=48,
    )
