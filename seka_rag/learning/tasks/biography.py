"""Attributes of a person that a biography describes and does not name."""

from __future__ import annotations

import random

from seka_rag.learning.domains import PEOPLE
from seka_rag.learning.sampling import (
    Sentence,
    distinct,
    joined,
    name_of,
    other_name,
    small_talk,
    state,
    unrelated_question,
)
from seka_rag.learning.triples import ContrastiveTriple

#: An attribute, how it shows ({p} is she or he), and how it is asked.
_ATTRIBUTES = (
    (
        ("{n} defends people who are accused in court", "{n} sets broken bones and stitches wounds",
         "{n} teaches sums and spelling to small children", "{n} steers planes from one continent to another",
         "{n} draws the plans for new houses", "{n} writes reports for the evening paper",
         "{n} mends engines and gearboxes", "{n} plants vines and presses grapes", "{n} casts bells in a foundry",
         "{n} looks after the teeth of the village", "{n} paints portraits in oil", "{n} balances the books of shops"),
        ("What is the occupation of {n}?", "What is {n} by profession?", "Which trade does {n} follow?"),
    ),
    (
        ("{n} gets up at four and never needs a clock", "{n} walks ten miles before breakfast",
         "{n} gives away most of what comes in", "{n} never forgets a face", "{n} laughs at every joke",
         "{n} checks every lock twice", "{n} speaks to strangers on trains", "{n} keeps every promise"),
        ("What kind of person is {n}?", "What is {n} like?", "What is said of the character of {n}?"),
    ),
    (
        ("{n} grew up where the river meets the sea", "{n} comes from a valley of slate mines",
         "{n} was raised among orchards in the south", "{n} spent a childhood on a lighthouse island",
         "{n} learned to walk on the deck of a barge", "{n} was born behind the walls of a garrison"),
        ("Where does {n} come from?", "What is the origin of {n}?", "Where did {n} grow up?"),
    ),
)  # fmt: skip

#: Facts that say nothing about these attributes.
_BESIDES = [f for f in PEOPLE.facts if not any(word in " ".join(f.questions) for word in ("job", "born"))]


def biography_triples(n: int = 300, seed: int = 0) -> list[ContrastiveTriple]:
    """``n`` triples about one attribute in a biography of several sentences; the answer is the part that shows it.

    Raises:
        LearningError: see ``distinct``.
    """
    return distinct(_triple, n, seed)


def _triple(rng: random.Random, attempt: int) -> ContrastiveTriple:
    name = name_of(rng, PEOPLE)
    asked, *others = rng.sample(_ATTRIBUTES, 3)
    shown = [rng.choice(a[0]).format(n=name if i == 0 else name.split()[0]) for i, a in enumerate([asked, *others])]
    answering = Sentence.of(f"{name} ", shown[0][len(name) + 1 :], ".")
    facts = [state(rng, fact, name) for fact in rng.sample(_BESIDES, rng.randint(1, 2))]
    parts = [answering, *(Sentence(f"{s}.") for s in shown[1 : rng.randint(1, 3)]), *facts, *small_talk(rng, 1)]
    rng.shuffle(parts)
    context, span = joined(parts, answering)
    if rng.random() < 0.5:  # the same question about somebody else
        irrelevant = rng.choice(asked[1]).format(n=other_name(rng, PEOPLE, context))
    else:
        irrelevant = unrelated_question(rng, context, PEOPLE)
    return ContrastiveTriple(context, span, rng.choice(asked[1]).format(n=name), irrelevant)
