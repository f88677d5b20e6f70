"""Biographies of people who do not exist: the first sentence says what someone does, the others what people around do."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

from seka_rag.errors import RecordError
from seka_rag.questions.facts import SPLITS, Split

OCCUPATIONS = (
    "accountant", "architect", "attorney", "baker", "carpenter", "comedian", "composer", "dentist", "farmer",
    "filmmaker", "gardener", "journalist", "librarian", "mechanic", "nurse", "painter", "pastor", "photographer",
    "physician", "pilot", "plumber", "poet", "professor", "surgeon", "tailor", "teacher", "translator", "waiter",
)  # fmt: skip
#: First name -> subject, object, possessive and reflexive pronoun.
_SHE, _HE = ("she", "her", "her", "herself"), ("he", "him", "his", "himself")
_NAMES = {
    **dict.fromkeys("Alda Berit Carina Dorit Elke Fenna Gesa Hedda Imke Jorun Katla Liv Mila Nele".split(), _SHE),
    **dict.fromkeys("Alvar Bjarne Caspar Dirk Egon Falk Gunnar Henrik Ivar Jost Knut Lennart Magnus Nils".split(), _HE),
}
_TOWNS = (
    "Arlenbrook Dunmarsh Ostwick Fernhollow Greyford Halvenport Kestrelby Lowmere Pellsworth Thornaby-Sands".split()
)
_FIRST = (
    "{name} is {job} in {town}.",
    "{name} works as {job} and lives in {town}.",
    "{name} has been {job} for {years} years.",
    "{name} earns a living as {job} in {town}.",
    "After school {name} became {job}, and has remained one to this day.",
)
#: Sentences about the work of others, then sentences about other things.
_OTHERS = (
    "{Poss} father was {job} in {town}, and {poss} mother ran a shop.",
    "{Subj} shares a house with {job} whom {subj} met on a train.",
    "For a year {subj} lived next door to {job} from {town}.",
    "{Job} from {town} taught {obj} how to swim.",
    "{Poss} best friend is {job} and calls {obj} every Sunday.",
    "{Poss} younger sister wants to become {job}.",
)
_ASIDES = (
    "{Subj} grew up in {town} with three cats and a parrot.",
    "In {poss} free time {subj} restores old clocks.",
    "{Subj} built the garden shed {refl} and painted it green.",
    "Every morning {subj} walks along the river before breakfast.",
    "{Subj} speaks four languages and is learning a fifth.",
    "A local paper once printed {poss} recipe for plum cake.",
)


@dataclass(frozen=True)
class Biography:
    """What is told of one person.

    Attributes:
        occupation: that of the person.
        sentences: the first of which tells it.
        elsewhere: index of a sentence about what somebody else does.
    """

    name: str
    occupation: str
    sentences: tuple[str, ...]
    elsewhere: int

    @property
    def text(self) -> str:
        return " ".join(self.sentences)

    def span(self, i: int) -> tuple[int, int]:
        """Where a sentence stands in the text."""
        start = sum(len(s) + 1 for s in self.sentences[:i])
        return start, start + len(self.sentences[i])


def biographies(split: Split, n: int, seed: int = 0) -> list[Biography]:
    """``n`` biographies, the same from the same seed; a combination of name and occupation is on one side of the split.

    Raises:
        RecordError: an unknown split, or ``n`` below 1.
    """
    if split not in SPLITS or n < 1:
        raise RecordError(f"split {split!r}, n={n}: choose from {' or '.join(SPLITS)}, and at least one")
    people = [(name, job) for name in _NAMES for job in OCCUPATIONS if _side(name, job) == split]
    random.Random(f"people {split} {seed}").shuffle(people)
    return [_written(*people[i % len(people)], random.Random(f"life {split} {seed} {i}")) for i in range(n)]


def _side(name: str, job: str) -> Split:
    return SPLITS[hashlib.sha256(f"{name} {job}".encode()).digest()[0] % 2]


def _written(name: str, job: str, rng: random.Random) -> Biography:
    others = rng.sample([o for o in OCCUPATIONS if o != job], 3)
    lines = [*rng.sample(_OTHERS, 3), *rng.sample(_ASIDES, 3)]
    jobs = [*others, *[others[0]] * 3]
    rest = [(_filled(line, name, o, rng), line in _OTHERS) for line, o in zip(lines, jobs, strict=True)]
    rng.shuffle(rest)
    sentences = (_filled(rng.choice(_FIRST), name, job, rng), *(text for text, _ in rest))
    return Biography(name, job, sentences, 1 + next(i for i, (_, other) in enumerate(rest) if other))


def _filled(line: str, name: str, job: str, rng: random.Random) -> str:
    subj, obj, poss, refl = _NAMES[name]
    a = f"an {job}" if job[0] in "aeiou" else f"a {job}"
    return line.format(
        name=name, job=a, Job=a.capitalize(), town=rng.choice(_TOWNS), years=rng.randint(3, 30),
        subj=subj, Subj=subj.capitalize(), obj=obj, poss=poss, Poss=poss.capitalize(), refl=refl,
    )  # fmt: skip
