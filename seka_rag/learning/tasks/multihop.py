"""Multi-hop questions: who stands behind a thing, and a fact about that person, in two sentences of one context."""

from __future__ import annotations

import random

from seka_rag.learning.domains import DOMAINS, PEOPLE, Domain, Fact
from seka_rag.learning.sampling import ask, distinct, joined, name_of, other_name, small_talk, state
from seka_rag.learning.triples import ContrastiveTriple

_PERSONS = next(set(f.values) for f in PEOPLE.facts if any("married" in s for s in f.statements))


def _links() -> list[tuple[Domain, Fact, str]]:
    """Facts whose value is a person, with a phrase for that person: "the person who invented the {n}"."""
    return [
        (domain, fact, "the person who " + question[4:-1])
        for domain in DOMAINS
        if domain is not PEOPLE
        for fact in domain.facts
        if set(fact.values) == _PERSONS
        for question in fact.questions
        if question.startswith("Who ") and not question.startswith(("Who is {n}", "Who did ", "Who was {n}"))
    ]


LINKS = _links()


def multihop_triples(n: int = 300, seed: int = 0) -> list[ContrastiveTriple]:
    """``n`` triples whose question needs two sentences; the answer is the value in the second.

    Raises:
        LearningError: see ``distinct``.
    """
    return distinct(_triple, n, seed)


def _triple(rng: random.Random, attempt: int) -> ContrastiveTriple:
    domain, link, phrase = rng.choice(LINKS)
    thing = name_of(rng, domain)
    person = rng.choice(link.values)
    fact = rng.choice([f for f in PEOPLE.facts if person not in f.values])
    first = state(rng, link, thing, person)
    value = rng.choice(fact.values)
    second = state(rng, fact, person, value)
    stranger = rng.choice([p for p in link.values if p != person])
    third = state(rng, fact, stranger, rng.choice([v for v in fact.values if v != value]))
    parts = [first, second, third, *small_talk(rng, rng.randint(0, 2))]
    rng.shuffle(parts)
    context, span = joined(parts, second)
    other_domain, _, other_phrase = rng.choice(LINKS)
    irrelevant = ask(rng, rng.choice(PEOPLE.facts), other_phrase.format(n=other_name(rng, other_domain, context)))
    return ContrastiveTriple(context, span, ask(rng, fact, phrase.format(n=thing)), irrelevant)
