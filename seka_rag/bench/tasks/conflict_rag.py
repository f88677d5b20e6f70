"""Questions over passages, both sides: what steering corrects, and what it breaks."""

from __future__ import annotations

from typing import ClassVar

from seka_rag.bench.item import Item
from seka_rag.bench.tasks.asking import group_of, question_item
from seka_rag.bench.tasks.base import Curve, Source, Task
from seka_rag.questions.facts import load_facts
from seka_rag.questions.kinds import KINDS

#: Kind of our own questions -> group. Of "wrong" ones the truth is highlighted in one group, the lie in another.
GROUPS = {
    "conflict": "correction",
    "wrong": "resistance",
    "agreement": "agreement",
    "novel": "novel",
    "irrelevant": "irrelevant",
    "disagree": "disagree",
    "unanswerable": "abstention",
}


class ConflictRag(Task):
    """Questions over passages.

    correction: a passage contradicts memory and is highlighted; right is what it says. resistance: one passage tells the
    truth and is highlighted, another one lies. wrong-highlight: the same, and the lie is highlighted. agreement: a passage
    says what memory says. novel: it tells of something invented. irrelevant: no passage answers, and another sentence is
    highlighted; right is what memory says. disagree: two passages tell different things, and one is highlighted.
    abstention: the passages lack the answer. kept: agreement, novel and irrelevant together, which steering must not harm.

    A file's records fall into these groups by their answers (``group_of``).
    """

    name: ClassVar[str] = "conflict-rag"
    about: ClassVar[str] = "Questions over passages that contradict memory, agree with it, lie, or lack the answer."
    columns: ClassVar[tuple[str, ...]] = (
        "correction.right", "resistance.right", "wrong-highlight.right", "agreement.right", "novel.right",
        "irrelevant.right", "disagree.right", "abstention.right", "correction.first", "irrelevant.kl",
        "correction.repetition", "correction.stopped", "correction.words",
    )  # fmt: skip
    curves: ClassVar[tuple[Curve, ...]] = (
        Curve("correction.right", "irrelevant.kl"),
        Curve("correction.first", "irrelevant.kl"),
        Curve("correction.right", "kept.right", loss=True, levels=(0.02, 0.05)),
    )
    limit: ClassVar[int] = 60

    def items(self, source: Source) -> list[Item]:
        if source.data is not None:
            return [question_item(record, group_of(record)) for record in source.records()]
        facts = {fact.id: fact for fact in load_facts()}
        items = []
        for kind in KINDS:
            for record in source.questions(kind):
                fact = facts.get(record.meta.get("fact", ""))
                items.append(question_item(record, GROUPS[kind], fact))
                if kind == "wrong":
                    items.append(question_item(record, "wrong-highlight", fact))
        return items
