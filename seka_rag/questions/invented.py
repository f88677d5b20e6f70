"""Invented companies, towns, ships and their details: what no model can know from memory."""

from __future__ import annotations

import functools
import hashlib
import random
from dataclasses import dataclass
from importlib import resources

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from seka_rag.questions.facts import SPLITS, Split


class Attribute(BaseModel):
    """A detail that entities of a domain have: how it is stated and asked (``{s}`` is the entity), and its values.

    Each value is a tuple of its spellings; the first one goes into statements.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    statements: tuple[str, ...] = Field(min_length=2)
    questions: tuple[str, ...] = Field(min_length=2)
    values: tuple[tuple[str, ...], ...] = Field(min_length=3)


class Domain(BaseModel):
    """A kind of entity; with a ``split``, all of it is used in that split only."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    domain: str
    split: Split | None = None
    entities: tuple[str, ...]
    fillers: tuple[str, ...] = Field(min_length=1)
    attributes: tuple[Attribute, ...]


@dataclass(frozen=True)
class Detail:
    """One attribute of one entity."""

    domain: Domain
    subject: str
    attribute: Attribute

    @property
    def questions(self) -> tuple[str, ...]:
        return tuple(q.replace("{s}", self.subject) for q in self.attribute.questions)

    @property
    def statements(self) -> tuple[str, ...]:
        """Clauses with ``{answer}`` where a value belongs."""
        return tuple(s.replace("{s}", self.subject) for s in self.attribute.statements)

    def others(self, rng: random.Random, n: int) -> list[Detail]:
        """Up to ``n`` other attributes of the same entity."""
        rest = [a for a in self.domain.attributes if a.name != self.attribute.name]
        return [Detail(self.domain, self.subject, a) for a in rng.sample(rest, min(n, len(rest)))]

    def claim(self, rng: random.Random) -> str:
        """A clause in some wording with some value."""
        value = rng.choice(self.attribute.values)
        return rng.choice(self.statements).replace("{answer}", value[0])


@functools.cache
def load_domains() -> tuple[Domain, ...]:
    """The invented domains that come with the library."""
    file = resources.files("seka_rag.questions") / "data" / "invented.json"
    return TypeAdapter(tuple[Domain, ...]).validate_json(file.read_bytes())


@functools.cache
def details(split: Split) -> tuple[Detail, ...]:
    """Every attribute of every entity on one side of the split; an entity is on one side by a hash of its name."""
    return tuple(
        Detail(domain, entity, attribute)
        for domain in load_domains()
        for entity in domain.entities
        for attribute in domain.attributes
        if (domain.split or _side(entity)) == split
    )


def _side(entity: str) -> Split:
    return SPLITS[hashlib.sha256(entity.encode()).digest()[0] % 2]
