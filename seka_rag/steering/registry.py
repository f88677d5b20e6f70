"""Steering methods by name. A new method is one file in this folder and one line here."""

from __future__ import annotations

from typing import Literal, TypeVar

from pydantic import ValidationError

from seka_rag.bank import Bank
from seka_rag.errors import BankError, SettingError
from seka_rag.steering.adaseka import AdaSeka
from seka_rag.steering.attention_bias import AttentionBias
from seka_rag.steering.base import SteeringMethod
from seka_rag.steering.context_aware import ContextAware
from seka_rag.steering.key_bias import KeyBias
from seka_rag.steering.key_scaling import KeyScaling
from seka_rag.steering.key_vector import KeyVector
from seka_rag.steering.prism import Prism
from seka_rag.steering.random_projection import RandomProjection
from seka_rag.steering.seka import Seka
from seka_rag.text.plain import JsonObject

M = TypeVar("M", bound=type[SteeringMethod])
METHODS: dict[str, type[SteeringMethod]] = {
    method.__name__: method
    for method in (
        Seka,
        AdaSeka,
        AttentionBias,
        ContextAware,
        KeyBias,
        KeyScaling,
        KeyVector,
        Prism,
        RandomProjection,
    )
}


def register(method: M) -> M:
    """Let a method be stored and read back by the name of its class: in banks, in requests to a server, in stored chains.

    A method that is only passed as an object needs no registration. Can be used as a decorator of the class.

    Raises:
        SettingError: another method has this name.
    """
    if METHODS.setdefault(method.__name__, method) is not method:
        raise SettingError(f"there is a steering method {method.__name__} already; give this one another name")
    return method


def as_steering(value: object) -> SteeringMethod | Literal["auto"] | None:
    """What a setting says: a method, its stored form, "auto" (the model's own method) or None (unsteered).

    Raises:
        SettingError: none of these, or a setting of the method with a wrong value.
    """
    if value is None or isinstance(value, SteeringMethod):
        return value
    if value == "auto":
        return "auto"
    name = value.get("method") if isinstance(value, dict) else None
    if isinstance(value, dict) and isinstance(name, str) and name in METHODS:
        try:
            fields = {key: v for key, v in value.items() if key != "method"}
            return METHODS[name].model_validate({key: _read(v) for key, v in fields.items()})
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise SettingError(f"steering={name}: {wrong}") from None
    raise SettingError(f"steering={value!r}: use 'auto', None, or a method such as Seka(gain=0.5)")


def _read(value: object) -> object:
    """The value of a setting; one that is a method itself comes in stored form."""
    return as_steering(value) if isinstance(value, dict) and "method" in value else value


def steering_as_dict(value: SteeringMethod | Literal["auto"] | None) -> JsonObject | str | None:
    """A setting as plain data, which ``as_steering`` reads back.

    Raises:
        SettingError: it holds something that cannot be stored.
    """
    return value.as_dict() if isinstance(value, SteeringMethod) else value


def suggested(bank: Bank) -> SteeringMethod:
    """The method that a bank suggests.

    Raises:
        BankError: a method that is not known here, or settings that it does not take.
    """
    name = bank.steering["method"]
    if name not in METHODS:
        raise BankError(
            f"the bank suggests the steering method {name!r}, which is not known here: there are {', '.join(METHODS)}. Import "
            "the package that registers it, or name another method (steering=...)"
        )
    try:
        method = as_steering(dict(bank.steering))
    except ValueError as error:
        raise BankError(f"the bank suggests {dict(bank.steering)}: {error}") from None
    assert isinstance(method, SteeringMethod)
    return method
