"""The loaded model behind a SekaLLM: loaded when first needed, shared, and never stored with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seka_rag import ProjectionBank, SteeredModel, shared_model


class EngineSlot:
    """Holds an LLM's model. Copies of the LLM share the slot; pickles and dictionaries do without the model."""

    def __init__(self, given: SteeredModel | None = None) -> None:
        self._given = given
        self._loaded: tuple[tuple[Any, ...], SteeredModel] | None = None  # held here, or nobody would keep it

    def get(self, name: str, bank: ProjectionBank | str | None, options: Mapping[str, Any]) -> SteeredModel:
        """The model that was given, else the one of this name."""
        if self._given is not None:
            return self._given
        asked = (name, bank if isinstance(bank, str) else id(bank), dict(options))
        loaded = self._loaded
        if loaded is None or loaded[0] != asked:
            loaded = self._loaded = (asked, shared_model(name, bank, options))
        return loaded[1]

    def __copy__(self) -> EngineSlot:
        return self

    def __deepcopy__(self, memo: Any) -> EngineSlot:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return EngineSlot, ()
