"""The model behind a framework's class: loaded when first needed, shared by name, and never stored with it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, cast

from seka_rag.model.citations import Citation, Excerpt, cite
from seka_rag.model.generation import Generation
from seka_rag.model.steered import SteeredModel
from seka_rag.model.stream import TextStream


class Engine(Protocol):
    """What a framework's class needs of a model, in this process or behind a server."""

    @property
    def name(self) -> str: ...
    @property
    def context_length(self) -> int | None: ...
    @property
    def can_chat(self) -> bool: ...
    @property
    def can_call_tools(self) -> bool: ...
    def generate(self, prompt: Any, **options: Any) -> Any: ...
    async def agenerate(self, prompt: Any, **options: Any) -> Any: ...
    def stream(self, prompt: Any, **options: Any) -> TextStream[Generation]: ...
    def chat(self, messages: Any, **options: Any) -> Generation: ...
    async def achat(self, messages: Any, **options: Any) -> Generation: ...
    def stream_chat(self, messages: Any, **options: Any) -> TextStream[Generation]: ...
    def tokenize(self, prompt: Any) -> Any: ...


class CitingServer(Protocol):
    """A model behind a server, whose attention is read there; ``seka_rag.model.citations.cite`` reads that of one here."""

    @property
    def can_cite(self) -> bool: ...
    def cite(
        self, prompt: Any, answer: str, excerpts: Sequence[Excerpt], *, template: Mapping[str, object]
    ) -> tuple[Citation, ...]: ...


def citer_of(engine: Engine) -> Callable[..., tuple[Citation, ...]] | None:
    """What says which passages an answer of a model rests on; None where its server does not."""
    if isinstance(engine, SteeredModel):
        return partial(cite, engine)
    server = cast(CitingServer, engine)
    return server.cite if server.can_cite else None


class EngineSlot:
    """Holds the model of an object. Copies of the object share the slot; what is stored of it does without the model."""

    def __init__(self, given: SteeredModel | None = None) -> None:
        self.given = given
        self._loaded: tuple[Hashable, Engine] | None = None  # held here, or nobody would keep it

    @property
    def ready(self) -> Engine | None:
        """The model, if there is one already."""
        return self.given if self.given is not None else self._loaded and self._loaded[1]

    def get(self, key: Hashable, load: Callable[[], Engine]) -> Engine:
        """The model that was given, else the one of this key, which ``load`` makes if it is not the one held."""
        if self.given is not None:
            return self.given
        loaded = self._loaded
        if loaded is None or loaded[0] != key:
            loaded = self._loaded = (key, load())
        return loaded[1]

    def __copy__(self) -> EngineSlot:
        return self

    def __deepcopy__(self, memo: object) -> EngineSlot:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return EngineSlot, ()
