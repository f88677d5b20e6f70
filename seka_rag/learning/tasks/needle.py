"""One fact in a long document about other things."""

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
    small_talk,
    state,
    unrelated_question,
)
from seka_rag.learning.triples import ContrastiveTriple


def needle_triples(n: int = 300, seed: int = 0) -> list[ContrastiveTriple]:
    """``n`` triples of 12 to 24 sentences in paragraphs, of which one answers; the answer is its value.

    Raises:
        LearningError: see ``distinct``.
    """
    return distinct(_triple, n, seed)


def _triple(rng: random.Random, attempt: int) -> ContrastiveTriple:
    domain = rng.choice(DOMAINS)
    name, fact = name_of(rng, domain), rng.choice(domain.facts)
    needle = state(rng, fact, name)
    hay: list[Sentence] = []
    while len(hay) < rng.randint(11, 23):
        about = rng.choice(DOMAINS)
        hay.append(state(rng, rng.choice(about.facts), other_name(rng, about, name)))
        hay += small_talk(rng, int(rng.random() < 0.3))
    at = rng.randint(0, len(hay))
    context, span = joined([*hay[:at], needle, *hay[at:]], needle, rng.choice((" ", "\n")))
    return ContrastiveTriple(context, span, ask(rng, fact, name), unrelated_question(rng, context))
