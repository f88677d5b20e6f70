"""CounterFact: does a highlighted edit of a fact win over memory? In the paper's prompt, and as retrieved passages."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from seka_rag.bench.item import Item, Opening, at, highlights_of
from seka_rag.bench.measure import opening_tokens, plain_scores
from seka_rag.bench.tasks.base import Curve, Source, Task
from seka_rag.errors import RecordError
from seka_rag.questions.facts import Fact
from seka_rag.questions.records import Highlight, Record

RAG = "Context:\n{context}\n\nQuestion: complete the sentence.\nAnswer:"
KNOWN = 2.5  # nats by which the model prefers the old answer without any passage
_LONGEST = 120  # characters of a paraphrase after passages; some are whole articles
_FIELDS = ("subject", "target_new", "target_true", "rewrite_prompt")


class CounterFact(Task):
    """CounterFact in the paper's prompt: ``Previously {old}. Currently {new}. {paraphrase}``, the new attribute highlighted.

    ES: share of records in which the new answer is likelier than the old one after the first paraphrase, by first tokens,
    the likeliest of lower case, capitalised and upper case. PS: the same after all paraphrases, averaged over each record.
    ES-known, PS-known: of facts that the model knows, whose old answer it prefers by 2.5 nats without passages. RAG: the
    new statement is one of three passages. irrelevant: three passages about other things, and one is highlighted.

    Records have ``meta`` with subject, target_new, target_true, rewrite_prompt, and may have ``paraphrases``.
    """

    name: ClassVar[str] = "counterfact"
    about: ClassVar[str] = "An edited fact in the prompt against the model's memory (CounterFact), by first tokens."
    columns: ClassVar[tuple[str, ...]] = (
        "ES.first", "PS.first", "ES-known.first", "PS-known.first", "RAG.first", "RAG-known.first", "irrelevant.kl",
    )  # fmt: skip
    curves: ClassVar[tuple[Curve, ...]] = (
        Curve("ES-known.first", "irrelevant.kl"),
        Curve("RAG-known.first", "irrelevant.kl"),
    )
    limit: ClassVar[int] = 150
    quick_limit: ClassVar[int] = 24
    spaced: ClassVar[bool] = True

    def items(self, source: Source) -> list[Item]:
        records = _of_facts(source.known) if source.data is None else self._read(source)
        if not records:
            raise RecordError(f"{self.name}: no record has a subject, targets and an attribute to highlight")
        paper = [item for record in records for item in self._paper(record)]
        known = _preferred(source, records)
        rag = [item for record in records for item in _rag(record, records)]
        return [_with_known(item, known) for item in [*paper, *rag]]

    def _read(self, source: Source) -> list[Record]:
        """The records of the file that have something to highlight."""
        records = source.records()
        source.made(records, _refuse)
        return [r for r in records if r.highlights and r.meta["target_new"] and r.meta["target_true"]]

    def _paper(self, record: Record) -> list[Item]:
        """One item for each paraphrase."""
        before, _ = record.passages
        old = (0, before.index(" ") + 1, len(before.rstrip(".")))
        return [
            Item(
                id=f"{record.id}/{i}",
                unit=record.id,
                groups=("ES", "PS") if i == 0 else ("PS",),
                record=record.model_copy(update={"question": text}),
                gold=highlights_of(record),
                wrong=at(record, old),
                template="{context}",
                separator=" ",
                chat=False,
                opening=_opening(record, text, self.spaced),
            )
            for i, text in enumerate(_paraphrases(record))
        ]


class CounterFactPaper(CounterFact):
    """CounterFact with the paper's target tokens, which lack the space that stands before the answer."""

    name: ClassVar[str] = "counterfact-paper"
    about: ClassVar[str] = "CounterFact with the paper's targets: their tokens lack the space before the answer."
    spaced: ClassVar[bool] = False


def _paraphrases(record: Record) -> list[str]:
    return [text.strip() for text in record.meta.get("paraphrases", [record.question])]


def _opening(record: Record, text: str, spaced: bool = True) -> Opening:
    new, old = (_forms(record.meta[name]) for name in ("target_new", "target_true"))
    return Opening(text=text, right=new, other=old, spaced=spaced)


def _forms(target: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys([target.lower(), target.capitalize(), target.upper()]))


def _refuse(record: Record) -> list[Item]:
    """Raise unless a record is one of CounterFact; it makes no items.

    Raises:
        RecordError: it is not; says which field is wrong.
    """
    for name in _FIELDS:
        if not isinstance(record.meta.get(name), str):
            raise RecordError(f"meta.{name}: counterfact needs a text")
    texts = record.meta.get("paraphrases", [record.question])
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise RecordError("meta.paraphrases: counterfact needs a list of texts")
    if len(record.passages) != 2 or " " not in record.passages[0].strip():
        raise RecordError("passages: counterfact needs two, what was true before and what is true now")
    return []


def _preferred(source: Source, records: Sequence[Record]) -> set[str]:
    """Ids of the records whose old answer the model prefers clearly, without passages."""
    model, openings = source.model, [_opening(r, r.meta["rewrite_prompt"]) for r in records]
    found = set()
    for start in range(0, len(records), 32):
        scores = plain_scores(model, [opening.text for opening in openings[start : start + 32]])
        for record, opening, row in zip(records[start:], openings[start:], scores, strict=False):
            new, old = opening_tokens(model, opening)
            if new and old and float(row[list(old)].max() - row[list(new)].max()) > KNOWN:
                found.add(record.id)
    return found


def _with_known(item: Item, known: set[str]) -> Item:
    more = tuple(f"{group}-known" for group in item.groups if group != "irrelevant")
    return replace(item, groups=(*item.groups, *more)) if item.unit in known else item


def _rag(record: Record, records: Sequence[Record]) -> list[Item]:
    """The new statement among two true ones, and three true ones of which one is highlighted."""
    text, rng = _paraphrases(record)[0], random.Random(record.id)
    targets = {record.meta["target_new"], record.meta["target_true"]}
    others = [
        r for r in records if r.meta["subject"] != record.meta["subject"] and r.meta["target_true"] not in targets
    ]
    if len(text) > _LONGEST or len(others) < 3:
        return []
    new = f"{record.meta['rewrite_prompt']} {record.meta['target_new']}."
    three = [f"{r.meta['rewrite_prompt']} {r.meta['target_true']}." for r in rng.sample(others, 3)]
    place = rng.randrange(3)
    with_new = [*three[:place], new, *three[place + 1 :]]
    return [
        _passages_item(record, "RAG", text, with_new, place),
        _passages_item(record, "irrelevant", text, three, place),
    ]


def _passages_item(record: Record, group: str, question: str, passages: Sequence[str], place: int) -> Item:
    spans = [(i, 0, len(passage)) for i, passage in enumerate(passages)]
    asked = Record(
        id=f"{record.id}/{group}",
        dataset=record.dataset,
        question=question,
        passages=tuple(passages),
        gold_context_answer=(record.meta["target_new"],) if group == "RAG" else (),
        parametric_answer=record.meta["target_true"],
        highlights=(),
        meta={},
    )
    return Item(
        id=asked.id,
        unit=record.id,
        groups=(group,),
        record=asked,
        gold=at(asked, spans[place]),
        wrong=at(asked, spans[place - 1]),
        template=RAG,
        chat=False,
        opening=_opening(record, question),
    )


def _of_facts(facts: Sequence[Fact]) -> list[Record]:
    """Our own facts in the form of CounterFact: the statements that end in the answer are the paraphrases."""
    return [record for record in map(_of_fact, facts) if record is not None]


def _of_fact(fact: Fact) -> Record | None:
    endings = [s.removesuffix(" {answer}") for s in fact.statements if s.endswith(" {answer}")]
    other = [text[0].upper() + text[1:] for text in endings if text.lower() != fact.cloze.lower()]
    if not other:
        return None
    new, true = fact.alternatives[0][0], fact.answers[0]
    current = f"Currently {fact.cloze} {new}."
    after = current.rfind(fact.subject)
    start = after + len(fact.subject) if after >= 0 else len(current) - 1 - len(new)
    start += len(current[start:]) - len(current[start:].lstrip(",-;: "))
    mark = Highlight(passage=1, start=start, end=len(current) - 1, text=current[start:-1])
    return Record(
        id=fact.id,
        dataset="seka-rag",
        question=other[0],
        passages=(current.replace("Currently", "Previously", 1)[: -len(new) - 1] + f"{true}.", current),
        gold_context_answer=(new,),
        parametric_answer=true,
        highlights=(mark,),
        meta={
            "subject": fact.subject,
            "target_new": new,
            "target_true": true,
            "rewrite_prompt": fact.cloze,
            "paraphrases": other,
        },
    )
