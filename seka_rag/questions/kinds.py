"""Questions of every kind, made from facts and invented details: the same from the same seed, on any machine.

conflict: a passage contradicts memory, and is highlighted. agreement: it says what memory says. irrelevant: no passage
answers, memory does, and some sentence is highlighted. wrong: one passage says the truth, another a false answer, and
the false one is highlighted. novel: a passage tells a detail of something invented. disagree: two passages tell
different details, and one is highlighted. unanswerable: the passages are about the invented thing but lack the detail.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from seka_rag.errors import RecordError
from seka_rag.questions.answers import contains_answer
from seka_rag.questions.facts import SPLITS, Fact, Split, load_facts
from seka_rag.questions.invented import Detail, details
from seka_rag.questions.passages import Draft
from seka_rag.questions.pen import Pen
from seka_rag.questions.records import Record

Kind = Literal["conflict", "agreement", "irrelevant", "wrong", "novel", "disagree", "unanswerable"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def questions(
    kind: Kind,
    split: Split,
    n: int,
    seed: int = 0,
    *,
    facts: Sequence[Fact] | None = None,
    passages: tuple[int, int] = (3, 10),
    others: Sequence[Fact] | None = None,
) -> list[Record]:
    """``n`` questions of one kind from one side of the split.

    The first questions of a longer list are those of a shorter one, and question ``i`` is about the same fact in every
    kind that is made from facts. When all facts are used, they come again with other answers, wordings and passages.
    Every second question repeats the words of the passage that answers it; the others share none but the topic
    (``meta["wording"]``: "same" or "paraphrase").

    Args:
        facts: those to ask about, such as the ones that a model knows; by default all. Those of the other side of the
            split are left out.
        passages: of each question, fewest and most, at least 3.
        others: facts that passages beside the evidence may be about; by default all that come with the library.

    Returns:
        Records whose ``meta`` also names kind, split, category, subject, the styles of all passages, and as highlights
        the ``evidence`` (the sentence that answers, or None) and one sentence ``elsewhere``, about something else.

    Raises:
        RecordError: an unknown kind or split, ``n`` below 1, too few passages or others, or no fact of this side of the split.
    """
    if kind not in KINDS or split not in SPLITS:
        raise RecordError(f"kind {kind!r}, split {split!r}: choose from {', '.join(KINDS)}, and {' or '.join(SPLITS)}")
    if n < 1:
        raise RecordError(f"n={n}: ask for at least one question")
    if not 3 <= passages[0] <= passages[1]:
        raise RecordError(f"passages={passages}: give the fewest, at least 3, and the most")
    around = None if others is None else tuple(fact for fact in others if fact.split == split)
    if around is not None and len(around) < passages[1]:
        raise RecordError(f"others: {len(around)} facts are {split}, too few for {passages[1]} passages")
    pens = [Pen(kind, split, seed, i, passages, around) for i in range(n)]
    order = random.Random(f"{split} {seed}")
    if kind in _ABOUT_FACTS:
        some = [fact for fact in (load_facts() if facts is None else facts) if fact.split == split]
        if not some:
            raise RecordError(f"none of the {len(facts or ())} facts is {split}: give more facts")
        order.shuffle(some)
        return [_ABOUT_FACTS[kind](pen, some[i % len(some)], i // len(some)) for i, pen in enumerate(pens)]
    every = list(details(split))
    order.shuffle(every)
    return [_ABOUT_DETAILS[kind](pen, every[i % len(every)]) for i, pen in enumerate(pens)]


# --- about facts: what memory says is the true answer


def _conflict(pen: Pen, fact: Fact, turn: int) -> Record:
    question, statement, wording = pen.phrase(fact.questions, fact.statements)
    false = _false(fact, turn)
    draft = pen.passage(fact, statement.replace("{answer}", false[0]), never=fact.answers, once=false)
    never = [*fact.answers, *false]
    return pen.record(
        fact, question, false, [draft], marked=0, answering=0, never=never, memory=fact.answers, wording=wording,
        fact=fact.id,
    )  # fmt: skip


def _agreement(pen: Pen, fact: Fact, turn: int) -> Record:
    question, statement, wording = pen.phrase(fact.questions, fact.statements)
    false = _false(fact, turn)
    draft = pen.passage(fact, statement.replace("{answer}", fact.answers[0]), never=false, once=fact.answers)
    never = [*fact.answers, *false]
    return pen.record(
        fact, question, fact.answers, [draft], marked=0, answering=0, never=never, memory=fact.answers, wording=wording,
        fact=fact.id, false_answer=list(false),
    )  # fmt: skip


def _irrelevant(pen: Pen, fact: Fact, turn: int) -> Record:
    question, false = pen.rng.choice(fact.questions), _false(fact, turn)
    never = [*fact.answers, *false]
    return pen.record(
        fact, question, (), [], marked=None, answering=None, never=never, memory=fact.answers, fact=fact.id,
        false_answer=list(false),
    )  # fmt: skip


def _wrong(pen: Pen, fact: Fact, turn: int) -> Record:
    question, statement, wording = pen.phrase(fact.questions, fact.statements)
    false = _false(fact, turn)
    right = pen.passage(fact, statement.replace("{answer}", fact.answers[0]), never=false, once=fact.answers)
    lie = pen.rng.choice(fact.statements).replace("{answer}", false[0])
    poison = pen.passage(fact, lie, never=fact.answers, once=false)
    never = [*fact.answers, *false]
    return pen.record(
        fact, question, fact.answers, [right, poison], marked=1, answering=0, never=never, memory=fact.answers,
        wording=wording, fact=fact.id, other_answers=list(false),
    )  # fmt: skip


def _false(fact: Fact, turn: int) -> tuple[str, ...]:
    """The false answer of this turn; each turn has another one, until all are used."""
    return fact.alternatives[turn % len(fact.alternatives)]


# --- about invented details: memory says nothing


def _novel(pen: Pen, detail: Detail) -> Record:
    question, statement, wording = pen.phrase(detail.questions, detail.statements)
    value = pen.rng.choice(detail.attribute.values)
    draft = _told(pen, detail, statement, value, ())
    return pen.record(detail, question, value, [draft], marked=0, answering=0, never=value, wording=wording)


def _disagree(pen: Pen, detail: Detail) -> Record:
    question, statement, wording = pen.phrase(detail.questions, detail.statements)
    value, other = pen.rng.sample(detail.attribute.values, 2)
    drafts = [
        _told(pen, detail, statement, value, other),
        _told(pen, detail, pen.rng.choice(detail.statements), other, value),
    ]
    never = [*value, *other]
    return pen.record(
        detail, question, value, drafts, marked=0, answering=0, never=never, wording=wording, other_answers=list(other)
    )


def _unanswerable(pen: Pen, detail: Detail) -> Record:
    question = pen.rng.choice(detail.questions)
    first, *rest = [other.claim(pen.rng) for other in detail.others(pen.rng, pen.rng.randint(1, 3))]
    draft = pen.passage(detail, first, more=rest)
    return pen.record(detail, question, (), [draft], marked=0, answering=None, never=())


def _told(pen: Pen, detail: Detail, statement: str, value: Sequence[str], never: Sequence[str]) -> Draft:
    """A passage that states a value, and sometimes more about the same entity, but no value in ``never``."""
    safe = lambda claim: not contains_answer(claim, [*value, *never])  # noqa: E731
    more = [other.claim(pen.rng) for other in detail.others(pen.rng, pen.rng.randint(0, 2))]
    claim = statement.replace("{answer}", value[0])
    return pen.passage(detail, claim, never=never, once=value, more=list(filter(safe, more)))


_ABOUT_FACTS: dict[str, Callable[[Pen, Fact, int], Record]] = {
    "conflict": _conflict,
    "agreement": _agreement,
    "irrelevant": _irrelevant,
    "wrong": _wrong,
}
_ABOUT_DETAILS: dict[str, Callable[[Pen, Detail], Record]] = {
    "novel": _novel,
    "disagree": _disagree,
    "unanswerable": _unanswerable,
}
