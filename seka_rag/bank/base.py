"""What every kind of bank has, whatever it holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Protocol

from seka_rag.errors import BankError
from seka_rag.hf.identity import ModelIdentity


class Bank(Protocol):
    """What was learned for one model.

    Attributes:
        model: identity of the model.
        digest: a short name for exactly this content.
        layers: layers that it has something for.
        names: of the experts in it; empty if it is one bank.
        steering: the method that it suggests, in stored form: ``{"method": "Seka", "gain": 0.5}``. A bank knows no methods.
        suggested_gain: the gain of that method; 1 if it has none.
    """

    @property
    def model(self) -> ModelIdentity: ...
    @property
    def digest(self) -> str: ...
    @property
    def layers(self) -> tuple[int, ...]: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def steering(self) -> Mapping[str, object]: ...
    @property
    def suggested_gain(self) -> float: ...


def stored_method(usual: str, steering: Mapping[str, object] | None, gain: float) -> dict[str, object]:
    """The suggested method of a bank in stored form: what is given, else the usual one at a gain.

    Raises:
        BankError: it names no method, or holds something that is no plain data.
    """
    form = {"method": usual, "gain": gain} if steering is None else dict(steering)
    if not isinstance(form.get("method"), str):
        raise BankError(f"steering={steering!r}: give the stored form of a method, such as Seka(gain=0.5).as_dict()")
    try:
        stored: dict[str, object] = json.loads(json.dumps(form, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BankError(f"steering={form!r} cannot be stored: {error}") from None
    return stored


def described(steering: Mapping[str, object]) -> str:
    """A stored method in words: ``Seka (gain 0.5)``."""
    settings = ", ".join(f"{key} {value}" for key, value in steering.items() if key != "method" and value is not None)
    return f"{steering['method']} ({settings})" if settings else str(steering["method"])


def gain_of(steering: Mapping[str, object]) -> float:
    """The gain of a stored method; 1 if it has none."""
    gain = steering.get("gain", 1.0)
    return float(gain) if isinstance(gain, int | float) else 1.0


def without_gain(header: dict[str, object], usual: str) -> dict[str, object]:
    """A header of an older format, which suggested a gain of the usual method, as one of today.

    Raises:
        ValueError: it suggests no gain.
    """
    gain = header.pop("suggested_gain", None)
    if not isinstance(gain, int | float) or not isfinite(gain):
        raise ValueError(f"suggested_gain is {gain!r}, not a finite number")
    return {**header, "steering": {"method": usual, "gain": gain}}
