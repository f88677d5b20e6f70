"""Triples from templates: short invented contexts in many domains, any number of them, no data needed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from seka_rag.errors import LearningError
from seka_rag.learning.domains import DOMAINS, Domain, Fact
from seka_rag.learning.triples import ContrastiveTriple
from seka_rag.text.spans import Span

#: Share of irrelevant questions that ask the same kind of thing of another entity of the same domain.
_NEAR = 0.2


@dataclass(frozen=True, slots=True)
class _Sentence:
    text: str
    answer: tuple[int, int] | None = None


def template_triples(n: int = 300, seed: int = 0) -> list[ContrastiveTriple]:
    """Triples about invented people, places, devices, companies, dishes, drugs and so on.

    A context has one to four sentences, the one that answers at any place among them: other facts about the same
    entity, a fact about another one, remarks that state nothing. The irrelevant question is mostly about another
    domain, sometimes about another entity of the same one that the context does not name.

    Args:
        n: how many, at least 1.
        seed: the same seed gives the same triples, and the first ``m`` of ``n`` are those of ``m``.

    Returns:
        ``n`` distinct triples.

    Raises:
        LearningError: ``n`` below 1, or more than the templates can make.
    """
    if n < 1:
        raise LearningError(f"n={n}: ask for at least 1 triple")
    rng = random.Random(seed)
    made: dict[tuple[str, str], ContrastiveTriple] = {}
    for attempt in range(20 * n + 100):
        if len(made) == n:
            break
        # domains in turn, so that even a few triples are varied
        triple = _triple(rng, DOMAINS[attempt % len(DOMAINS)])
        made.setdefault((triple.context, triple.question), triple)
    if len(made) < n:
        raise LearningError(f"the templates made {len(made)} distinct triples of {n}: ask for fewer")
    return list(made.values())


def _triple(rng: random.Random, domain: Domain) -> ContrastiveTriple:
    name, other = _name(rng, domain), _name(rng, domain)
    while _confusable(name, other):
        other = _name(rng, domain)
    asked, *more = rng.sample(domain.facts, rng.randint(1, 3))
    alone = not more or rng.random() < 0.7  # no second entity: a later sentence may then say "the firm"
    rest = [_state(rng, fact, name) for fact in more]
    if not alone:
        rest[-1] = _state(rng, rng.choice(domain.facts), other)
    if rng.random() < 0.5:
        rest.append(_Sentence(rng.choice(domain.fillers)))
    at = rng.randint(0, len(rest))
    # "the firm" is plain only after a sentence that named it
    named_before = alone and any(name in sentence.text for sentence in rest[:at])
    subject = domain.again if named_before and rng.random() < 0.3 else name
    answering = _state(rng, asked, subject)
    ordered = [*rest[:at], answering, *rest[at:]]
    context = " ".join(sentence.text for sentence in ordered)
    offset = sum(len(sentence.text) + 1 for sentence in ordered[:at])
    assert answering.answer is not None
    answer = Span(offset + answering.answer[0], offset + answering.answer[1])
    question = rng.choice(asked.questions).format(n=name)
    return ContrastiveTriple(context, answer, question, _irrelevant(rng, domain, context))


def _state(rng: random.Random, fact: Fact, name: str) -> _Sentence:
    """A statement of the fact with the place of its value in it."""
    before, _, after = rng.choice(fact.statements).partition("{v}")
    value = rng.choice(fact.values)
    if name.startswith("the "):  # "The {n}" of a template must not become "The the firm"
        before, after = (part.replace("The {n}", "{n}").replace("the {n}", "{n}") for part in (before, after))
    start = before.replace("{n}", name)
    text = start + value + after.replace("{n}", name)
    return _Sentence(text[0].upper() + text[1:], (len(start), len(start) + len(value)))


def _irrelevant(rng: random.Random, domain: Domain, context: str) -> str:
    """A question about an entity that the context does not name."""
    if rng.random() >= _NEAR:
        domain = rng.choice([d for d in DOMAINS if d is not domain])
    while True:
        name = _name(rng, domain)
        if name.casefold() not in context.casefold():
            return rng.choice(rng.choice(domain.facts).questions).format(n=name)


def _name(rng: random.Random, domain: Domain) -> str:
    return rng.choice(domain.first) + domain.joiner + rng.choice(domain.second)


def _confusable(a: str, b: str) -> bool:
    return a.casefold() in b.casefold() or b.casefold() in a.casefold()
