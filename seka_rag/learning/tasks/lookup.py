"""Factual lookup: short invented contexts in many domains, any number of them, no data needed."""

from __future__ import annotations

import random

from seka_rag.learning.domains import DOMAINS
from seka_rag.learning.sampling import (
    Sentence,
    ask,
    distinct,
    joined,
    name_of,
    other_name,
    state,
    unrelated_question,
)
from seka_rag.learning.triples import ContrastiveTriple

#: Share of irrelevant questions that ask the same kind of thing of another entity of the same domain.
_NEAR = 0.2


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
    return distinct(_triple, n, seed)


def _triple(rng: random.Random, attempt: int) -> ContrastiveTriple:
    domain = DOMAINS[attempt % len(DOMAINS)]  # in turn, so that even a few triples are varied
    name, other = name_of(rng, domain), name_of(rng, domain)
    while _confusable(name, other):
        other = name_of(rng, domain)
    asked, *more = rng.sample(domain.facts, rng.randint(1, 3))
    alone = not more or rng.random() < 0.7  # no second entity: a later sentence may then say "the firm"
    rest = [state(rng, fact, name) for fact in more]
    if not alone:
        rest[-1] = state(rng, rng.choice(domain.facts), other)
    if rng.random() < 0.5:
        rest.append(Sentence(rng.choice(domain.fillers)))
    at = rng.randint(0, len(rest))
    # "the firm" is plain only after a sentence that named it
    named_before = alone and any(name in sentence.text for sentence in rest[:at])
    subject = domain.again if named_before and rng.random() < 0.3 else name
    answering = state(rng, asked, subject)
    context, answer = joined([*rest[:at], answering, *rest[at:]], answering)
    question = ask(rng, asked, name)
    if rng.random() >= _NEAR:
        return ContrastiveTriple(context, answer, question, unrelated_question(rng, context, domain))
    near = ask(rng, rng.choice(domain.facts), other_name(rng, domain, context))
    return ContrastiveTriple(context, answer, question, near)


def _confusable(a: str, b: str) -> bool:
    return a.casefold() in b.casefold() or b.casefold() in a.casefold()
