"""What one request asks for, in the arguments that vLLM passes on: token positions, weights, a strength, a bank, a routing.

They are numbers, strings and flat lists, so that they also go through ``vllm_xargs`` of its HTTP API.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeGuard

from seka_rag.errors import SettingError, SpanError

_SPANS, _WEIGHTS, _STRENGTH, _BANK, _PROBE, _ROUTING = NAMES = (
    "seka_spans",
    "seka_weights",
    "seka_strength",
    "seka_bank",
    "seka_probe",
    "seka_routing",
)


@dataclass(frozen=True)
class Highlights:
    """The highlighted tokens of one prompt.

    Attributes:
        spans: ``(start, stop, weight)``, token positions in the prompt; in order, none overlaps another.
        strength: of the method, in place of the one that it has; None for that.
        bank: its name; None for the engine's first.
        routing: weights of the bank's experts, as the report of a probe has them; None for a bank without experts.
        probe: whether nothing is steered, and the report says how the prompt's last query weighs the experts.
    """

    spans: tuple[tuple[int, int, float], ...]
    strength: float | None = None
    bank: str | None = None
    routing: tuple[float, ...] | None = None
    probe: bool = False

    @classmethod
    def of_weights(
        cls, weights: Sequence[float], strength: float | None = None, bank: str | None = None
    ) -> Highlights | None:
        """From the weight of each token, as ``TokenizedPrompt`` has them; None if all are 0."""
        spans, start = [], 0
        for weight, run in groupby(weights):
            stop = start + len(list(run))
            if weight:
                spans.append((start, stop, float(weight)))
            start = stop
        return cls(tuple(spans), strength, bank) if spans else None

    @property
    def count(self) -> int:
        """How many tokens are highlighted."""
        return sum(stop - start for start, stop, _ in self.spans)

    def inside(self, start: int, stop: int) -> tuple[tuple[int, int, float], ...]:
        """The parts of the spans in positions ``[start, stop)``, counted from ``start``."""
        return tuple(
            (max(a, start) - start, min(b, stop) - start, w) for a, b, w in self.spans if a < stop and b > start
        )

    def bank_of(self, banks: Iterable[str]) -> str:
        """The name of its bank among the engine's; the first where it names none."""
        return self.bank or next(iter(banks))

    def as_args(self) -> dict[str, object]:
        """As ``read_highlights`` reads them."""
        args: dict[str, object] = {_SPANS: [place for a, b, _ in self.spans for place in (a, b)]}
        if self.probe:
            args = {_PROBE: True}
        if any(weight != 1 for *_, weight in self.spans):
            args[_WEIGHTS] = [weight for *_, weight in self.spans]
        if self.strength is not None:
            args[_STRENGTH] = self.strength
        if self.bank is not None:
            args[_BANK] = self.bank
        if self.routing is not None:
            args[_ROUTING] = list(self.routing)
        return args


def read_highlights(args: Mapping[str, Any] | None, length: int | None = None) -> Highlights | None:
    """The highlights in the extra arguments of a request; None if there are none.

    Args:
        length: of the prompt, in tokens; None if it was checked before.

    Raises:
        SpanError: spans that are empty, overlap, reach beyond the prompt or are not in pairs; weights that are not one each,
            not positive, or not finite.
        SettingError: an argument that begins like ours and is unknown, a strength or a weight of an expert that is no finite
            number, spans missing, or a probe with highlights.
    """
    ours = {name: value for name, value in (args or {}).items() if name.startswith("seka_")}
    if not ours:
        return None
    if unknown := sorted(ours.keys() - set(NAMES)):
        raise SettingError(f"unknown arguments {', '.join(unknown)}: there are {', '.join(NAMES)}")
    if ours.get(_PROBE):
        if beside := sorted(ours.keys() - {_PROBE, _BANK}):
            raise SettingError(f"{_PROBE} asks for a routing and steers nothing: leave {', '.join(beside)} out")
        return Highlights((), bank=ours.get(_BANK), probe=True)
    if not isinstance(ours.get(_SPANS), Sequence) or isinstance(ours[_SPANS], str):
        raise SettingError(f"{_SPANS}={ours.get(_SPANS)!r}: give a flat list of token positions, [start, stop, ...]")
    places = [_position(value) for value in ours[_SPANS]]
    if len(places) % 2:
        raise SpanError(f"{_SPANS} holds {len(places)} positions: give a start and a stop for each span")
    pairs = list(zip(places[::2], places[1::2], strict=True))
    weights = ours.get(_WEIGHTS) or [1.0] * len(pairs)
    if not isinstance(weights, Sequence) or not all(map(_is_number, weights)):
        raise SpanError(f"{_WEIGHTS} is no flat list of finite numbers")
    if len(weights) != len(pairs):
        raise SpanError(f"{_WEIGHTS} holds {len(weights)} numbers for {len(pairs)} spans")
    spans = sorted((a, b, float(w)) for (a, b), w in zip(pairs, weights, strict=True))
    for (a, b, w), before in zip(spans, [(0, 0, 0.0), *spans], strict=False):
        if not 0 <= a < b:
            raise SpanError(f"span [{a}, {b}) holds no token")
        if length is not None and b > length:
            raise SpanError(f"span [{a}, {b}) reaches beyond the prompt of {length} tokens")
        if a < before[1]:
            raise SpanError(f"span [{a}, {b}) overlaps [{before[0]}, {before[1]})")
        if w <= 0:
            raise SpanError(f"span [{a}, {b}) has the weight {w}: give a positive number")
    strength, bank = ours.get(_STRENGTH), ours.get(_BANK)
    if strength is not None and not _is_number(strength):
        raise SettingError(f"{_STRENGTH}={strength!r}: give a finite number")
    routing = ours.get(_ROUTING)
    if routing is not None:
        if not isinstance(routing, Sequence) or not all(map(_is_number, routing)):
            raise SettingError(f"{_ROUTING} is no flat list of finite numbers")
        routing = tuple(map(float, routing))
    return Highlights(tuple(spans), None if strength is None else float(strength), bank, routing) if spans else None


def _position(value: object) -> int:
    if not _is_number(value) or value != int(value):
        raise SpanError(f"{_SPANS} holds {value!r}, which is no token position")
    return int(value)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
