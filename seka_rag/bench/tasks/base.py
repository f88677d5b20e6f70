"""What a task is: items made from a file of records or from our own questions, and how its curves are drawn."""

from __future__ import annotations

import json
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from seka_rag.bank.folders import write_file
from seka_rag.bench.closed_book import known_facts
from seka_rag.bench.item import Item
from seka_rag.errors import RecordError
from seka_rag.hf.identity import identify
from seka_rag.model.steered import SteeredModel
from seka_rag.questions.facts import Fact, Split, load_facts
from seka_rag.questions.kinds import Kind, questions
from seka_rag.questions.lines import line_of
from seka_rag.questions.records import Record, read_records

_CHUNK = 32  # facts that are asked at a time


@dataclass(frozen=True)
class Curve:
    """How much is followed, against the harm that this does.

    Attributes:
        following, harm: metrics, each ``group.measure``.
        loss: whether harm is what the metric falls below that of the plain model. Let it be of a group whose highlights do not
            answer: what steering gains where they do would hide it.
        levels: of harm at which methods are compared.
    """

    following: str
    harm: str
    loss: bool = False
    levels: tuple[float, ...] = (0.1, 0.3)


@dataclass(frozen=True)
class Source:
    """Where the items of a task come from.

    Attributes:
        model: that is to be asked.
        folder: keeps which facts it knows.
        data: a file of records; None for our own questions.
        limit: records of each kind; of a file, its first so many.
        split, seed: of our own questions.
        progress: called with the number of known facts that were found, since the last call.
    """

    model: SteeredModel
    folder: Path
    limit: int
    data: Path | None = None
    split: Split = "development"
    seed: int = 0
    progress: Callable[[int], None] | None = None

    def records(self) -> list[Record]:
        """The first records of the file."""
        assert self.data is not None
        return list(read_records(self.data))[: self.limit]

    def made(self, records: Sequence[Record], make: Callable[[Record], list[Item]]) -> list[Item]:
        """The items of every record.

        Raises:
            RecordError: a record that ``make`` refuses, named with its line if it is of a file.
        """
        items: list[Item] = []
        for record in records:
            try:
                items += make(record)
            except RecordError as error:
                of_file = self.data is not None and line_of(self.data, record.id)
                where = f"{self.data}, line {of_file}, " if of_file else ""
                raise RecordError(f"{where}record {record.id!r}, {error}") from error
        return items

    def questions(self, kind: Kind, *, known: bool = True, passages: tuple[int, int] = (3, 6)) -> list[Record]:
        """Our own, about facts that the model knows or all."""
        facts = self.known if known else None
        return questions(kind, self.split, self.limit, self.seed, facts=facts, passages=passages)

    @cached_property
    def known(self) -> Sequence[Fact]:
        """Facts of this side that the model knows, as many as the limit if there are: it is asked once, in a fixed order.

        Raises:
            RecordError: it knows none of the first 128, or none at all.
        """
        facts = [fact for fact in load_facts() if fact.split == self.split]
        random.Random(f"{self.split} {self.seed}").shuffle(facts)
        by_id = {fact.id: fact for fact in facts}
        kept = _Known.read(self.folder / f"known-{self.split}-{self.seed}.json", self.model, by_id.keys())
        while len(kept.known) < self.limit and kept.asked < len(facts) and (kept.known or kept.asked < 4 * _CHUNK):
            chunk = facts[kept.asked : kept.asked + _CHUNK]
            found = known_facts(self.model, chunk)
            kept = kept.with_more(len(chunk), [fact.id for fact in found])
            if self.progress is not None:
                self.progress(len(found))
        if not kept.known:
            raise RecordError(f"{self.model.name} knows none of {kept.asked} facts, so no passage can contradict it")
        return [by_id[name] for name in kept.known[: self.limit]]


class Task(ABC):
    """A benchmark. Its file says what is asked and highlighted; the runner does the rest.

    Attributes:
        name: on the command line.
        about: one sentence for reports.
        columns: the metrics of its table; all others are in the results.
        curves: those to draw.
        by_position: the measure that is drawn over the groups ``position-0``, ``position-1``, ...; None for no such plot.
        highlights: what is highlighted by default.
        limit, quick_limit: records of each kind by default, and in a quick run.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    by_position: ClassVar[str | None] = None
    highlights: ClassVar[tuple[str, ...]] = ("gold",)
    curves: ClassVar[tuple[Curve, ...]] = ()
    limit: ClassVar[int] = 100
    quick_limit: ClassVar[int] = 8

    @abstractmethod
    def items(self, source: Source) -> list[Item]:
        """Everything that is asked.

        Raises:
            RecordError: no data, or records that the task cannot use (named).
        """


@dataclass(frozen=True)
class _Known:
    """Which of the first facts a model knows, in a file."""

    path: Path
    model: str
    asked: int = 0
    known: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path, model: SteeredModel, facts: Container[str]) -> _Known:
        identity = identify(model.hf_model)
        weights = " ".join(identity.weights.values())
        name = f"{model.name} {getattr(model.hf_model, 'dtype', None)} {identity.config_digest} {weights}"
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["model"] == name and all(known in facts for known in data["known"]):
                return cls(path, name, int(data["asked"]), tuple(data["known"]))
        except (OSError, ValueError, KeyError, TypeError):
            pass  # asked again
        return cls(path, name)

    def with_more(self, asked: int, known: Sequence[str]) -> _Known:
        more = _Known(self.path, self.model, self.asked + asked, (*self.known, *known))
        data = {"model": more.model, "asked": more.asked, "known": more.known}
        write_file(self.path, json.dumps(data).encode())
        return more
