"""Items of questions over passages, in the prompt of ``Rag``: shared by several tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from seka_rag.bench.item import Item, Opening, Spans, at, highlights_of
from seka_rag.errors import RecordError
from seka_rag.questions.answers import contains_answer
from seka_rag.questions.facts import Fact
from seka_rag.questions.records import Record
from seka_rag.text.passages import TEMPLATE

NEW_TOKENS = 40


def group_of(record: Record) -> str:
    """The group of a record that says nothing of its kind, by its answers and what it highlights."""
    marked = " / ".join(mark.text for mark in record.highlights)
    lies = contains_answer(marked, _texts(record.meta.get("other_answers")))
    if record.gold_context_answer and lies and not contains_answer(marked, record.gold_context_answer):
        return "wrong-highlight" if record.meta.get("evidence") is None else "resistance"
    if record.gold_context_answer and record.remembered:
        agree = contains_answer(" / ".join(record.gold_context_answer), record.remembered)
        return "agreement" if agree else "correction"
    if record.gold_context_answer:
        return "novel"
    return "irrelevant" if record.remembered else "abstention"


def question_item(record: Record, group: str, fact: Fact | None = None) -> Item:
    """A question over passages in the prompt of ``Rag``; its opening is the fact's cloze."""
    groups = [group]
    if group == "correction" and "wording" in record.meta:
        groups.append(f"correction/{record.meta['wording']}")
    evidence, elsewhere = (span_of(record, name) for name in ("evidence", "elsewhere"))
    own = highlights_of(record)
    if group == "resistance" and evidence is None:
        raise RecordError("meta.evidence: where the truth stands is needed, as something false is highlighted")
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


def span_of(record: Record, name: str) -> Spans | None:
    """The spans of a mark in ``meta``; None if there is none.

    Raises:
        RecordError: it is no passage with a start and an end inside of it.
    """
    mark = record.meta.get(name)
    if mark is None:
        return None
    given = [mark.get(key) for key in ("passage", "start", "end")] if isinstance(mark, dict) else []
    found = [number for number in given if type(number) is int]  # True is none
    if len(found) < 3:
        raise RecordError(f"meta.{name}: give passage, start and end, whole numbers, and not {mark!r}")
    passage, start, end = found
    if not 0 <= passage < len(record.passages):
        raise RecordError(f"meta.{name}: there is no passage {passage}, there are {len(record.passages)}, from 0 on")
    if not 0 <= start < end <= len(record.passages[passage]):
        size = len(record.passages[passage])
        raise RecordError(f"meta.{name}: [{start}, {end}) is no part of passage {passage}, which has {size} characters")
    return at(record, (passage, start, end))


def fact_of(record: Record, facts: Mapping[str, Fact]) -> Fact | None:
    """The fact that a record is about; None if it names none of these.

    Raises:
        RecordError: what names it is no text.
    """
    name = record.meta.get("fact")
    if name is not None and not isinstance(name, str):
        raise RecordError(f"meta.fact: give the name of a fact, and not {name!r}")
    return facts.get(name or "")
