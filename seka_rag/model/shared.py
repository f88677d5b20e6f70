"""Loaded models, each once, for as long as somebody uses it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any
from weakref import WeakValueDictionary

from seka_rag.bank import Bank
from seka_rag.model.steered import SteeredModel

_loaded: WeakValueDictionary[tuple[str, str, str], SteeredModel] = WeakValueDictionary()
_loading = threading.Lock()


def shared_model(name: str, bank: Bank | str | None, options: Mapping[str, Any]) -> SteeredModel:
    """The model of this name with this bank, loaded with these options; one object for all who ask for the same.

    Raises:
        ModelNotFoundError: neither here nor on the Hub.
    """
    key = (name, bank_name(bank), repr(sorted(options.items())))
    with _loading:
        model = _loaded.get(key)
        if model is None:
            model = _loaded[key] = SteeredModel.from_pretrained(name, bank=bank, **options)
        return model


def bank_name(bank: Bank | str | None) -> str:
    """What tells one bank from another, without loading it: its digest, or the folder."""
    return str(bank) if bank is None or isinstance(bank, str) else f"digest:{bank.digest}"
