"""Questions over passages, both sides: what steering corrects, and what it breaks."""

from __future__ import annotations

from typing import ClassVar

from seka_rag.bench.item import Item
from seka_rag.bench.tasks.asking import fact_of, group_of, question_item
from seka_rag.bench.tasks.base import Curve, Source, Task
from seka_rag.errors import RecordError
from seka_rag.questions.answers import contains_answer
from seka_rag.questions.facts import load_facts
from seka_rag.questions.kinds import KINDS
from seka_rag.questions.records import Highlight, Record

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
    abstention: the passages lack the answer.

    A file's records fall into these groups by ``meta.kind``, where it is one of our own, or else by their answers
    (``group_of``). Those with ``meta.real_passages``, as ConflictNQ has them, are also asked with these passages, highlighted
    as a whole, where what they say is what memory says.
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
        Curve("correction.right", "irrelevant.right", loss=True, levels=(0.02, 0.05)),
    )
    limit: ClassVar[int] = 60

    def items(self, source: Source) -> list[Item]:
        facts = {fact.id: fact for fact in load_facts()}

        def made(record: Record) -> list[Item]:
            fact = fact_of(record, facts)
            return [question_item(r, group, fact) for r in _both_sides(record) for group in _groups(r)]

        own = source.data is None
        return source.made([r for k in KINDS for r in source.questions(k)] if own else source.records(), made)


def _groups(record: Record) -> tuple[str, ...]:
    group = GROUPS.get(str(record.meta.get("kind"))) or group_of(record)
    return (group, "wrong-highlight") if group == "resistance" else (group,)


def _both_sides(record: Record) -> list[Record]:
    """The record, and the same question over the passages that say what memory says, if it has them."""
    real = record.meta.get("real_passages")
    if real is None:
        return [record]
    if not isinstance(real, list) or not real or not all(isinstance(text, str) and text for text in real):
        raise RecordError("meta.real_passages: conflict-rag needs a list of texts")
    if not record.remembered or not contains_answer(" / ".join(real), record.remembered):
        return [record]
    marks = tuple(Highlight(passage=i, start=0, end=len(text), text=text) for i, text in enumerate(real))
    agreeing = {"id": f"{record.id}/real", "passages": tuple(real), "highlights": marks, "meta": {}}
    return [record, record.model_copy(update={**agreeing, "gold_context_answer": record.remembered})]
