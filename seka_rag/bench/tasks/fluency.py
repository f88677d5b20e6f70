"""Fluency: longer answers, and whether they repeat themselves, end and stay varied."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from seka_rag.bench.item import Item
from seka_rag.bench.tasks.asking import question_item
from seka_rag.bench.tasks.base import Source, Task

TEMPLATE = "Context:\n{context}\n\nQuestion: {question}\nAnswer in a few sentences and explain:"
NEW_TOKENS = 120


class Fluency(Task):
    """Questions about invented things, to be answered at length. Entropy is that of word n-grams, in bits."""

    name: ClassVar[str] = "fluency"
    about: ClassVar[str] = "Longer answers: repetition, entropy, length, and whether they end by themselves."
    columns: ClassVar[tuple[str, ...]] = (
        "long.right", "long.repetition", "long.entropy", "long.stopped", "long.words",
    )  # fmt: skip
    limit: ClassVar[int] = 40

    def items(self, source: Source) -> list[Item]:
        records = source.questions("novel", known=False) if source.data is None else source.records()
        made = source.made(records, lambda record: [question_item(record, "long")])
        return [replace(item, template=TEMPLATE, new_tokens=NEW_TOKENS, opening=None) for item in made]
