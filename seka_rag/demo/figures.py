"""The rates of a demo as plain data, and files that appear whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from seka_rag.bench.rates import Rate


@dataclass(frozen=True)
class Figure:
    """A rate of one kind of questions: the form of ``seka-rag demo --json``.

    Attributes:
        settings: of the method; empty for the plain model.
        low, high: 95% Wilson interval.
        p: McNemar's, against the plain model on the same questions; None where it was not computed.
    """

    kind: str
    method: str
    settings: Mapping[str, object]
    n: int
    value: float
    low: float
    high: float
    p: float | None = None

    @classmethod
    def of(cls, kind: str, method: str, settings: Mapping[str, object], rate: Rate, p: float | None = None) -> Figure:
        low, high = rate.interval
        return cls(kind, method, dict(settings), rate.n, rate.value, low, high, p)


def write_rates(path: Path, figures: Sequence[Figure]) -> None:
    """Write figures as a JSON list."""
    write_text(path, json.dumps([asdict(figure) for figure in figures], indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
