"""The steering field: read from a name, a method or its stored form, and written back."""

from __future__ import annotations

from typing import Any

from seka_rag import KeyScaling, RandomProjection, Seka

_METHODS = {method.__name__: method for method in (Seka, KeyScaling, RandomProjection)}


def read_steering(value: Any) -> Any:
    """A steering method, "auto" or None.

    Raises:
        ValueError: none of these.
    """
    if value is None or value == "auto":
        return value
    if isinstance(value, dict) and value.get("method") in _METHODS:
        return _METHODS[value["method"]](**{key: v for key, v in value.items() if key != "method"})
    if isinstance(value, type) or not callable(getattr(value, "edits", None)):
        raise ValueError(f"steering={value!r}: use 'auto', None, or a method such as Seka(gain=0.5)")
    return value


def steering_as_dict(value: Any) -> Any:
    """The field as plain data."""
    return value if value is None or isinstance(value, str) else {"method": type(value).__name__, **value.model_dump()}
