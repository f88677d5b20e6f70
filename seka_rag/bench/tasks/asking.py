"""Items of questions over passages, in the prompt of ``Rag``: shared by several tasks."""

from __future__ import annotations

from collections.abc import Sequence

from seka_rag.bench.item import Item, Opening, Spans, at, highlights_of
from seka_rag.questions.answers import contains_answer
from seka_rag.questions.facts import Fact
from seka_rag.questions.records import Record
from seka_rag.text.passages import TEMPLATE

NEW_TOKENS = 40


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
    evidence, elsewhere = (span_of(record, record.meta.get(name)) for name in ("evidence", "elsewhere"))
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


def span_of(record: Record, mark: object) -> Spans | None:
    """The spans of a mark in ``meta``; None if it is none."""
    if not isinstance(mark, dict) or not {"passage", "start", "end"} <= mark.keys():
        return None
    return at(record, (mark["passage"], mark["start"], mark["end"]))
