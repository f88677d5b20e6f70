"""Loaded models, each once, for as long as somebody uses it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any
from weakref import WeakValueDictionary

from seka_rag import ProjectionBank, SteeredModel

_loaded: WeakValueDictionary[tuple[str, str, str], SteeredModel] = WeakValueDictionary()
_loading = threading.Lock()


def load_engine(name: str, bank: ProjectionBank | str | None, options: Mapping[str, Any]) -> SteeredModel:
    """The model of this name with this bank, loaded with these options; shared between all who ask for the same."""
    key = (name, bank_key(bank), repr(sorted(options.items())))
    with _loading:
        engine = _loaded.get(key)
        if engine is None:
            engine = _loaded[key] = SteeredModel.from_pretrained(name, bank=bank, **options)
        return engine


def bank_key(bank: ProjectionBank | str | None) -> str:
    """What tells one bank from another, without loading it."""
    return bank.digest if isinstance(bank, ProjectionBank) else str(bank)
