"""Passages of several sentences around one claim, in the styles in which people write things down."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources

from pydantic import BaseModel, ConfigDict, Field

from seka_rag.errors import RecordError
from seka_rag.questions.facts import Split

_DRAWS = 200


class Style(BaseModel):
    """How one kind of document opens, makes a claim, digresses and closes.

    Slots: ``{s}`` and ``{S}`` the subject (the second with a capital), ``{fact}`` and ``{Fact}`` the claim, and names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    split: Split | None = None
    openings: tuple[str, ...] = Field(min_length=1)
    claims: tuple[str, ...] = Field(min_length=1)
    asides: tuple[str, ...] = Field(min_length=1)
    closings: tuple[str, ...] = Field(min_length=1)


class Styles(BaseModel):
    """All styles, sentences that fit around a topic, and names for the slots."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    styles: tuple[Style, ...]
    fillers: dict[str, tuple[str, ...]]
    names: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Draft:
    """A passage and where its claim stands in it."""

    text: str
    start: int
    end: int
    style: str

    @property
    def rest(self) -> str:
        """The text without the claim."""
        return self.text[: self.start] + self.text[self.end :]


@functools.cache
def load_styles() -> Styles:
    """The styles that come with the library; those marked held-out are used in that split only."""
    return Styles.model_validate_json((resources.files("seka_rag.questions") / "data" / "styles.json").read_bytes())


def topic_sentences(topic: str) -> tuple[str, ...]:
    """Sentences for a passage on a topic; those of an unknown topic are general ones.

    >>> topic_sentences("music")[0]
    'It is often played on the radio.'
    """
    fillers = load_styles().fillers
    return fillers.get(topic, fillers["general"])


def write(
    rng: random.Random,
    split: Split,
    subject: str,
    claim: str,
    sentences: Sequence[str],
    *,
    more: Sequence[str] = (),
    accept: Callable[[Draft], bool] = lambda draft: True,
) -> Draft:
    """A passage about a subject that claims something.

    Args:
        rng: decides everything.
        subject, claim: as they stand in the middle of a sentence, the claim without full stop.
        sentences: what else can be written on the topic.
        more: further claims, each a sentence of its own.
        accept: says whether a passage will do; another is drawn until one does.

    Raises:
        RecordError: none was accepted.
    """
    for _ in range(_DRAWS):
        draft = _write(rng, split, subject, claim, sentences, more)
        if accept(draft):
            return draft
    raise RecordError(f"no passage could be written about {subject!r}: in {_DRAWS} draws, each gave something away")


def _write(
    rng: random.Random, split: Split, subject: str, claim: str, sentences: Sequence[str], more: Sequence[str]
) -> Draft:
    data = load_styles()
    style = rng.choice([s for s in data.styles if s.split in (None, split)])
    slots = {"s": subject, "S": _capital(subject), "fact": claim, "Fact": _capital(claim), **_names(rng, data)}

    def some(templates: Sequence[str]) -> str:
        return rng.choice(templates).format_map(slots)

    around = [rng.choice(sentences), *rng.sample(style.asides, 2), rng.choice(data.fillers["general"])]
    around = rng.sample(around, rng.randint(1, 3))
    body = [text.format_map(slots) for text in around] + [f"{_capital(other)}." for other in more]
    rng.shuffle(body)
    at = rng.randint(0, len(body))
    before = [some(style.openings), *body[:at]]
    after = [*body[at:], *([some(style.closings)] if rng.random() < 0.7 else [])]
    stated = some(style.claims)
    start = len(" ".join(before)) + 1
    return Draft(" ".join([*before, stated, *after]), start, start + len(stated), style.name)


def _names(rng: random.Random, data: Styles) -> dict[str, str]:
    person, person2 = rng.sample(data.names["person"], 2)
    day, day2 = rng.sample(data.names["day"], 2)
    single = {key: rng.choice(data.names[key]) for key in ("town", "house", "user", "month")}
    return {"person": person, "person2": person2, "day": day, "day2": day2, **single}


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
