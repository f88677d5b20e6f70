"""Tasks of several kinds in one run: is there anything to choose among experts?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import ClassVar

from seka_rag.bench.item import Item
from seka_rag.bench.tasks.asking import question_item
from seka_rag.bench.tasks.base import Curve, Source, Task
from seka_rag.bench.tasks.biasbios import BiasBios
from seka_rag.bench.tasks.counterfact import CounterFact
from seka_rag.bench.tasks.memotrap import MemoTrap
from seka_rag.errors import RecordError
from seka_rag.questions.facts import load_facts
from seka_rag.questions.kinds import Kind


class Several(Task):
    """Four kinds of task, by first tokens; the evidence or the instruction is highlighted.

    conflict: one of three passages contradicts memory. statement: an edited fact in the prompt of CounterFact. biography:
    the occupation in the first sentence (biasbios). proverb: the word in which a proverb is to end (memotrap; there are
    thirty). all: these four. irrelevant: no passage answers, and some sentence is highlighted; its ``kl`` is the harm.
    """

    name: ClassVar[str] = "several"
    about: ClassVar[str] = "Tasks of four kinds in one run, for experts among which a query chooses (AdaSEKA)."
    columns: ClassVar[tuple[str, ...]] = (
        "all.first", "conflict.first", "statement.first", "biography.first", "proverb.first", "irrelevant.kl",
    )  # fmt: skip
    curves: ClassVar[tuple[Curve, ...]] = (Curve("all.first", "irrelevant.kl"),)
    limit: ClassVar[int] = 60

    def items(self, source: Source) -> list[Item]:
        if source.data is not None:
            raise RecordError(f"{self.name}: has our own questions only, so leave --data out")
        statements = (item for item in CounterFact().items(source) if "ES" in item.groups)
        return [
            *_of("conflict", _asked(source, "conflict")),
            *_of("statement", statements),
            *_of("biography", BiasBios().items(source)),
            *_of("proverb", MemoTrap().items(source)),
            *_of("irrelevant", _asked(source, "irrelevant")),
        ]


def _asked(source: Source, kind: Kind) -> list[Item]:
    facts = {fact.id: fact for fact in load_facts()}
    records = source.questions(kind, passages=(3, 3))
    return [question_item(record, kind, facts[record.meta["fact"]]) for record in records]


def _of(group: str, items: Iterable[Item]) -> Iterator[Item]:
    """The items of a task as a group of this one, of which only the first token is read."""
    groups = (group,) if group == "irrelevant" else (group, "all")
    for item in items:
        yield replace(item, id=f"{group}/{item.id}", unit=f"{group}/{item.unit}", groups=groups, new_tokens=0)
