"""Loaded models, each once, for as long as somebody uses it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any
from weakref import WeakValueDictionary

from seka_rag.bank import ProjectionBank
from seka_rag.model.steered import SteeredModel

_loaded: WeakValueDictionary[tuple[str, str, str], SteeredModel] = WeakValueDictionary()
_loading = threading.Lock()


def shared_model(name: str, bank: ProjectionBank | str | None, options: Mapping[str, Any]) -> SteeredModel:
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


def bank_name(bank: ProjectionBank | str | None) -> str:
    """What tells one bank from another, without loading it: its digest, or the folder."""
    return f"digest:{bank.digest}" if isinstance(bank, ProjectionBank) else str(bank)
