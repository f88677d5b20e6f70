"""Steering methods by name. A new method is one file in this folder and one line here."""

from __future__ import annotations

from typing import Any, Literal

from seka_rag.errors import SettingError
from seka_rag.steering.adaseka import AdaSeka
from seka_rag.steering.base import KeySteering
from seka_rag.steering.key_scaling import KeyScaling
from seka_rag.steering.random_projection import RandomProjection
from seka_rag.steering.seka import Seka

METHODS: dict[str, type[KeySteering]] = {
    method.__name__: method for method in (Seka, AdaSeka, KeyScaling, RandomProjection)
}


def as_steering(value: Any) -> KeySteering | Literal["auto"] | None:
    """What a setting says: a method, its stored form, "auto" (the model's own method) or None (unsteered).

    Raises:
        SettingError: none of these.
    """
    if value is None or value == "auto" or isinstance(value, KeySteering):
        return value
    if isinstance(value, dict) and value.get("method") in METHODS:
        return METHODS[value["method"]](**{key: v for key, v in value.items() if key != "method"})
    raise SettingError(f"steering={value!r}: use 'auto', None, or a method such as Seka(gain=0.5)")


def steering_as_dict(value: KeySteering | Literal["auto"] | None) -> Any:
    """A setting as plain data, which ``as_steering`` reads back.

    Raises:
        SettingError: it holds a router that is a function.
    """
    if isinstance(value, AdaSeka) and callable(value.router):
        raise SettingError("a router that is a function cannot be stored; use one of the named routers")
    return {"method": type(value).__name__, **value.model_dump()} if isinstance(value, KeySteering) else value
