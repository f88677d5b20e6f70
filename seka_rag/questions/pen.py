"""Writing one question: its wording, its passages, and the record of where everything stands."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from seka_rag.questions.answers import contains_answer, normalise
from seka_rag.questions.facts import Fact, Split, load_facts
from seka_rag.questions.invented import Detail, details
from seka_rag.questions.passages import Draft, topic_sentences, write
from seka_rag.questions.records import Highlight, Record
from seka_rag.text.words import STOPWORDS, words

_STEM = 5  # letters
_ENDING = re.compile(r"(?<=\w\w)(?:ing|ed|es|e|s)$")


def shared_words(question: str, statement: str, topic: Sequence[str]) -> set[str]:
    """Content words, cut to their beginnings, of a question and a statement, less those of all questions of the topic.

    >>> sorted(shared_words("Who painted it in Rome?", "the painter of it is X", ["Who made it in Rome?"]))
    ['paint']
    """
    unavoidable = set.intersection(*map(_stems, topic)) if topic else set()
    return (_stems(question) & _stems(statement.replace("{answer}", " "))) - unavoidable


def _stems(text: str) -> set[str]:
    return {_stem(w) for w in words(text) if w not in STOPWORDS or w in ("have", "has")}


def _stem(word: str) -> str:
    """What words of one root share: painter, painted, paints.

    >>> [_stem(w) for w in ("painter", "paints", "called", "calls", "states", "has")]
    ['paint', 'paint', 'call', 'call', 'stat', 'have']
    """
    return "have" if word in ("have", "has") else _ENDING.sub("", word)[:_STEM]


@dataclass
class Pen:
    """Writes one question; everything it draws follows from kind, split, seed and index."""

    kind: str
    split: Split
    seed: int
    index: int
    passages: tuple[int, int]
    others: tuple[Fact, ...] | None = None
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.kind} {self.split} {self.seed} {self.index}")

    def phrase(self, asked: Sequence[str], stated: Sequence[str]) -> tuple[str, str, str]:
        """A question, a statement and how they compare, "same" and "paraphrase" in turn."""
        pairs = [(q, s, "same" if shared_words(q, s, asked) else "paraphrase") for q in asked for s in stated]
        wanted = ("same", "paraphrase")[self.index % 2]
        return self.rng.choice([pair for pair in pairs if pair[2] == wanted] or pairs)

    def passage(
        self,
        about: Fact | Detail,
        claim: str,
        *,
        never: Sequence[str] = (),
        once: Sequence[str] = (),
        more: Sequence[str] = (),
    ) -> Draft:
        """A passage that makes a claim (and more of them).

        Args:
            never: answers that it does not contain.
            once: answers that only the claim contains.
        """

        def accept(draft: Draft) -> bool:
            return not contains_answer(draft.text, never) and not contains_answer(draft.rest, once)

        sentences = topic_sentences(about.topic) if isinstance(about, Fact) else about.domain.fillers
        return write(self.rng, self.split, about.subject, claim, sentences, more=more, accept=accept)

    def distractors(self, about: Fact | Detail, n: int, never: Sequence[str]) -> list[Draft]:
        """Passages on different other subjects, each true or invented; none gives an answer, many are of the same sort."""
        facts = _facts(self.split) if self.others is None else self.others
        subjects = {_key(about)}
        drafts: list[Draft] = []
        while len(drafts) < n:
            invented = self.rng.random() < (0.3 if isinstance(about, Fact) else 0.7)
            other = self._another(about, details(self.split) if invented else facts)
            claim = other.claim(self.rng) if isinstance(other, Detail) else _truth(self.rng, other)
            if _key(other) not in subjects and not contains_answer(claim, never):
                subjects.add(_key(other))
                drafts.append(self.passage(other, claim, never=never))
        return drafts

    def _another(self, about: Fact | Detail, candidates: Sequence[Fact | Detail]) -> Fact | Detail:
        """Any candidate; half of the time one of the same sort, if there are any."""
        alike = [c for c in candidates if _sort(c) == _sort(about)] if self.rng.random() < 0.5 else []
        return self.rng.choice(alike or candidates)

    def record(
        self,
        about: Fact | Detail,
        question: str,
        gold: Sequence[str],
        drafts: Sequence[Draft],
        *,
        marked: int | None,
        answering: int | None,
        never: Sequence[str],
        memory: Sequence[str] = (),
        **meta: object,
    ) -> Record:
        """The question over ``drafts`` and distractors, in some order.

        Args:
            marked, answering: which draft is highlighted (None: a distractor), and which one answers (None: none).
            never: what no distractor may contain.
        """
        count = self.rng.randint(*self.passages)
        everything = [*drafts, *self.distractors(about, count - len(drafts), never)]
        places = self.rng.sample(range(count), count)  # where each of them goes
        passages = [draft for _, draft in sorted(zip(places, everything, strict=True), key=lambda pair: pair[0])]

        def at(i: int) -> Highlight:
            draft = everything[i]
            return Highlight(
                passage=places[i], start=draft.start, end=draft.end, text=draft.text[draft.start : draft.end]
            )

        away = len(drafts)  # the first distractor
        elsewhere = at(away)
        return Record(
            id=f"{self.kind}-{self.split}-{self.seed}-{self.index}",
            dataset="seka-rag",
            question=question,
            passages=tuple(draft.text for draft in passages),
            gold_context_answer=tuple(gold),
            parametric_answer=memory[0] if memory else None,
            highlights=(at(away if marked is None else marked),),
            meta={
                "kind": self.kind,
                "split": self.split,
                "category": _sort(about),
                "subject": about.subject,
                "styles": [draft.style for draft in passages],
                "evidence": None if answering is None else at(answering).model_dump(),
                "elsewhere": elsewhere.model_dump(),
                **({"parametric_aliases": list(memory[1:])} if memory else {}),
                **meta,
            },
        )


def _key(about: Fact | Detail) -> str:
    """What may be the subject of one passage only: facts of one group are about the same."""
    return normalise((about.group if isinstance(about, Fact) else None) or about.subject)


@functools.cache
def _facts(split: Split) -> tuple[Fact, ...]:
    return tuple(fact for fact in load_facts() if fact.split == split)


def _truth(rng: random.Random, fact: Fact) -> str:
    return rng.choice(fact.statements).replace("{answer}", fact.answers[0])


def _sort(about: Fact | Detail) -> str:
    return about.category if isinstance(about, Fact) else f"{about.domain.domain}: {about.attribute.name}"
