"""What the generators of triples share: statements with their value marked, texts put together, distinct triples."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from seka_rag.errors import LearningError
from seka_rag.learning.domains import DOMAINS, Domain, Fact
from seka_rag.learning.triples import ContrastiveTriple
from seka_rag.text.spans import Span


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence, and the range in it that a question may ask for."""

    text: str
    answer: tuple[int, int] | None = None

    @classmethod
    def of(cls, before: str, answer: str, after: str) -> Sentence:
        text = before + answer + after
        return cls(text[0].upper() + text[1:], (len(before), len(before) + len(answer)))

    def after(self, opening: str) -> Sentence:
        """The sentence behind an opening."""
        assert self.answer is not None
        return Sentence(opening + self.text, (self.answer[0] + len(opening), self.answer[1] + len(opening)))


def distinct(make: Callable[[random.Random, int], ContrastiveTriple], n: int, seed: int) -> list[ContrastiveTriple]:
    """``n`` distinct triples of ``make(rng, attempt)``; the first ``m`` of ``n`` are those of ``m``.

    Raises:
        LearningError: ``n`` below 1, or more than can be made.
    """
    if n < 1:
        raise LearningError(f"n={n}: ask for at least 1 triple")
    rng = random.Random(seed)
    made: dict[tuple[str, str], ContrastiveTriple] = {}
    for attempt in range(20 * n + 100):
        if len(made) == n:
            break
        triple = make(rng, attempt)
        made.setdefault((triple.context, triple.question), triple)
    if len(made) < n:
        raise LearningError(f"the templates made {len(made)} distinct triples of {n}: ask for fewer")
    return list(made.values())


def name_of(rng: random.Random, domain: Domain) -> str:
    """The name of an invented entity."""
    return rng.choice(domain.first) + domain.joiner + rng.choice(domain.second)


def other_name(rng: random.Random, domain: Domain, text: str) -> str:
    """The name of an entity that the text does not mention."""
    while (name := name_of(rng, domain)).casefold() in text.casefold():
        pass
    return name


def state(rng: random.Random, fact: Fact, name: str, value: str | None = None) -> Sentence:
    """A statement of the fact with its value marked."""
    before, _, after = rng.choice(fact.statements).partition("{v}")
    value = rng.choice(fact.values) if value is None else value
    if name.startswith("the "):  # "The {n}" of a template must not become "The the firm"
        before, after = (part.replace("The {n}", "{n}").replace("the {n}", "{n}") for part in (before, after))
    return Sentence.of(before.replace("{n}", name), value, after.replace("{n}", name))


def ask(rng: random.Random, fact: Fact, name: str) -> str:
    """A question that the fact answers."""
    return rng.choice(fact.questions).format(n=name)


def unrelated_question(rng: random.Random, context: str, besides: Domain | None = None) -> str:
    """A question about an entity that the context does not mention, of another domain than ``besides``."""
    domain = rng.choice([d for d in DOMAINS if d is not besides])
    name = other_name(rng, domain, context)
    return ask(rng, rng.choice(domain.facts), name)


def small_talk(rng: random.Random, n: int) -> list[Sentence]:
    """Sentences that state nothing about anybody."""
    return [Sentence(rng.choice(rng.choice(DOMAINS).fillers)) for _ in range(n)]


def joined(sentences: Sequence[Sentence], answering: Sentence, separator: str = " ") -> tuple[str, Span]:
    """The sentences as one text, and where the answer of one of them stands in it."""
    before = sentences[: next(i for i, s in enumerate(sentences) if s is answering)]
    assert answering.answer is not None
    offset = sum(len(s.text) + len(separator) for s in before)
    text = separator.join(s.text for s in sentences)
    return text, Span(offset + answering.answer[0], offset + answering.answer[1])
