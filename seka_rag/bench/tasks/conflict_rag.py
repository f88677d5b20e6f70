"""Questions over passages, both sides: what steering corrects, and what it breaks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from seka_rag.bench.item import Item, Opening, Spans, at, highlights_of
from seka_rag.bench.tasks.base import Curve, Source, Task
from seka_rag.questions.answers import contains_answer
from seka_rag.questions.facts import Fact, load_facts
from seka_rag.questions.kinds import KINDS
from seka_rag.questions.records import Record
from seka_rag.rag import TEMPLATE

NEW_TOKENS = 40
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


def group_of(record: Record) -> str:
    """The group of a record that says nothing of its kind, by its answers."""
    if record.gold_context_answer and record.remembered:
        agree = contains_answer(" / ".join(record.gold_context_answer), record.remembered)
        return "agreement" if agree else "correction"
    if record.gold_context_answer:
        return "novel"
    return "irrelevant" if record.remembered else "abstention"


def question_item(record: Record, group: str, fact: Fact | None = None) -> Item:
    """A question over passages in the prompt of ``Rag``; its opening is the fact's cloze."""
    groups = [group]
    if group in ("agreement", "novel", "irrelevant"):
        groups.append("kept")
    if group == "correction" and "wording" in record.meta:
        groups.append(f"correction/{record.meta['wording']}")
    evidence, elsewhere = (_span(record, record.meta.get(name)) for name in ("evidence", "elsewhere"))
    own = highlights_of(record)
    return Item(
        id=f"{record.id}/{group}" if group == "wrong-highlight" else record.id,
        unit=record.id,
        groups=tuple(groups),
        record=record,
        gold=evidence if group == "resistance" else own,
        wrong=None if group == "wrong-highlight" else elsewhere,
        template=TEMPLATE,
        opening=_opening(record, fact),
        new_tokens=NEW_TOKENS,
    )


def _opening(record: Record, fact: Fact | None) -> Opening | None:
    right, other = record.gold_context_answer, (*record.remembered, *_texts(record.meta.get("other_answers")))
    if fact is not None:
        false = _texts(record.meta.get("false_answer"))
        if not right or set(right) & set(fact.answers):  # memory is right
            return Opening(text=fact.cloze, right=fact.answers, other=tuple(false or other[len(record.remembered) :]))
        return Opening(text=fact.cloze, right=right, other=fact.answers)
    if right and other:
        return Opening(text="The answer is", right=right, other=tuple(o for o in other if o not in right))
    return None


def _texts(value: object) -> Sequence[str]:
    return [str(v) for v in value] if isinstance(value, list | tuple) else ()


def _span(record: Record, mark: object) -> Spans | None:
    if not isinstance(mark, dict) or not {"passage", "start", "end"} <= mark.keys():
        return None
    return at(record, (mark["passage"], mark["start"], mark["end"]))
