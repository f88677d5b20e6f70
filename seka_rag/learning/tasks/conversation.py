"""What was said earlier in a conversation."""

from __future__ import annotations

import random

from seka_rag.learning.domains import DOMAINS
from seka_rag.learning.sampling import Sentence, ask, distinct, joined, other_name, state, unrelated_question
from seka_rag.learning.triples import ContrastiveTriple

_SPEAKERS = (("User", "Assistant"), ("Customer", "Agent"), ("Human", "AI"), ("A", "B"))
_OPENINGS = (
    "",
    "By the way: ",
    "Before I forget: ",
    "I should add this. ",
    "Just so that you know: ",
    "One more thing: ",
)
_REPLIES = (
    "Thank you, I have noted that.", "Good to know.", "Understood. What else?", "I see. Please go on.",
    "That helps.", "All right. Is there anything more?",
)  # fmt: skip
_REQUESTS = (
    "Can you help me with a letter?",
    "Let us go through my notes.",
    "I have a few things to tell you.",
    "Hello!",
)


def conversation_triples(n: int = 300, seed: int = 0) -> list[ContrastiveTriple]:
    """``n`` triples over a conversation of several turns; the answer is a value that one turn mentioned.

    Raises:
        LearningError: see ``distinct``.
    """
    return distinct(_triple, n, seed)


def _triple(rng: random.Random, attempt: int) -> ContrastiveTriple:
    one, other = rng.choice(_SPEAKERS)
    told, names = [], ""
    turns = [Sentence(f"{one}: {rng.choice(_REQUESTS)}"), Sentence(f"{other}: {rng.choice(_REPLIES)}")]
    for domain in rng.sample(DOMAINS, rng.randint(2, 4)):
        name, fact = other_name(rng, domain, names), rng.choice(domain.facts)
        said = state(rng, fact, name).after(f"{one}: {rng.choice(_OPENINGS)}")
        turns += [said, Sentence(f"{other}: {rng.choice(_REPLIES)}")]
        told.append((name, fact, said))
        names += f" {name}"
    name, fact, said = rng.choice(told)
    context, span = joined(turns, said, "\n")
    return ContrastiveTriple(context, span, ask(rng, fact, name), unrelated_question(rng, context))
