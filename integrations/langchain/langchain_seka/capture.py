"""What retrievers returned and prompts were filled with, by run, so that a model call can find its own evidence.

LangChain tells a callback handler of every run and its parent. A model call only knows its own parent, and one root
may hold many chains at once (``map``, ``batch`` inside a step), so the root says nothing. A call therefore looks for
the nearest ancestor that has a finished retriever below it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.tracers.context import register_configure_hook

#: Trees of runs that are kept at once. A tree goes when its root ends; this bounds those whose end is never told.
_MOST_TREES = 4096


@dataclass(frozen=True)
class Retrieval:
    """What one retriever was asked and what it returned."""

    query: str
    documents: tuple[Any, ...]


@dataclass(frozen=True)
class FilledPrompt:
    """A prompt template, as LangChain writes it down, and what it was filled with."""

    template: dict[str, Any]
    inputs: Any


@dataclass(frozen=True)
class Evidence:
    """What a model call can draw on: its retrievers' results, and the prompts that may hold them, the latest first."""

    retrievals: tuple[Retrieval, ...]
    prompts: tuple[FilledPrompt, ...]


@dataclass
class _Run:
    parent: UUID | None  # None for a root
    children: list[UUID] = field(default_factory=list)
    query: str = ""
    retrieval: Retrieval | None = None
    prompt: FilledPrompt | None = None


class Capture(BaseCallbackHandler):
    """The handler. Thread-safe; it holds what belongs to runs that have not ended, and nothing else."""

    run_inline = True  # at once, and not behind other work of a thread pool
    ignore_llm = True  # a model's own run holds nothing, and of a cancelled one the end is never told
    ignore_chat_model = True

    def __init__(self) -> None:
        self._runs: dict[UUID, _Run] = {}
        self._roots: dict[UUID, None] = {}  # in order of their start
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """How many runs it holds. Not ``__len__``: LangChain takes a handler that is falsy for none at all."""
        return len(self._runs)

    def evidence(self, run: UUID | None) -> Evidence | None:
        """What the nearest ancestor with a finished retriever holds, beginning at ``run`` itself; None if none has."""
        with self._lock:
            while run is not None and run in self._runs:
                retrievals = tuple(self._retrievals(run))
                if retrievals:
                    return Evidence(retrievals, tuple(reversed(list(self._prompts(run)))))
                run = self._runs[run].parent
        return None

    def prompts(self, run: UUID | None) -> tuple[FilledPrompt, ...]:
        """The prompts below the nearest ancestor that has any, the latest first."""
        with self._lock:
            while run is not None and run in self._runs:
                if found := tuple(reversed(list(self._prompts(run)))):
                    return found
                run = self._runs[run].parent
        return ()

    def _retrievals(self, at: UUID) -> Iterator[Retrieval]:
        """Outermost finished retrievers: one that asks others returns what it chose from theirs."""
        run = self._runs[at]
        if run.retrieval is not None:
            yield run.retrieval
            return
        for child in run.children:
            yield from self._retrievals(child)

    def _prompts(self, at: UUID) -> Iterator[FilledPrompt]:
        run = self._runs[at]
        if run.prompt is not None:
            yield run.prompt
        for child in run.children:
            yield from self._prompts(child)

    # --- the tree

    def _begin(self, run_id: UUID, parent: UUID | None, **what: Any) -> None:
        with self._lock:
            if parent in self._runs:
                assert parent is not None
                self._runs[parent].children.append(run_id)
            else:  # also below a run of which nothing was told, such as another tracer's
                parent = None
                self._roots[run_id] = None
            self._runs[run_id] = _Run(parent, **what)
            if len(self._roots) > _MOST_TREES:
                self._drop(next(iter(self._roots)))

    def _finish(self, run_id: UUID) -> None:
        with self._lock:
            run = self._runs.get(run_id)
            if run is None:
                return
            if run.parent is None:
                self._drop(run_id)
            elif not run.children and run.retrieval is None and run.prompt is None:
                self._runs[run.parent].children.remove(run_id)
                del self._runs[run_id]

    def _drop(self, root: UUID) -> None:
        self._roots.pop(root, None)
        stack = [root]
        while stack:
            run = self._runs.pop(stack.pop(), None)
            stack += run.children if run else []

    # --- what LangChain tells

    def on_chain_start(
        self, serialized: Any, inputs: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        prompt = FilledPrompt(serialized, inputs) if kwargs.get("run_type") == "prompt" and serialized else None
        self._begin(run_id, parent_run_id, prompt=prompt)

    def on_tool_start(
        self, serialized: Any, input_str: str, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        self._begin(run_id, parent_run_id)

    def on_retriever_start(
        self, serialized: Any, query: str, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        self._begin(run_id, parent_run_id, query=query)

    def on_retriever_end(self, documents: Sequence[Any], *, run_id: UUID, **kwargs: Any) -> None:
        with self._lock:
            run = self._runs.get(run_id)
            if run is not None:
                run.retrieval = Retrieval(run.query, tuple(documents))
        self._finish(run_id)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._finish(run_id)

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._finish(run_id)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._finish(run_id)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._finish(run_id)

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._finish(run_id)


CAPTURE = Capture()
_hook: ContextVar[Capture | None] = ContextVar("seka_capture", default=CAPTURE)
_installed = threading.Lock()  # taken once and never released


def install() -> None:
    """Let LangChain tell of every run from now on, in every thread. The first model that is made does this."""
    if _installed.acquire(blocking=False):
        register_configure_hook(_hook, inheritable=True)  # LangGraph's nodes do not ask anew, they only inherit


@contextmanager
def aside(callbacks: Any) -> Iterator[Any]:
    """The callbacks without the handler, which stays out of the runs that begin here.

    LangChain tells the start of an asynchronous completion run to inline handlers only, if there are any; ours has no
    use for it and must not keep it from others.
    """
    token = _hook.set(None)
    try:
        yield _stripped(callbacks)
    finally:
        _hook.reset(token)


def _stripped(callbacks: Any) -> Any:
    if isinstance(callbacks, BaseCallbackManager):
        callbacks = callbacks.copy()
        if CAPTURE in callbacks.handlers:
            callbacks.remove_handler(CAPTURE)
        return callbacks
    if isinstance(callbacks, list):
        return [_stripped(c) for c in callbacks if c is not CAPTURE]
    return callbacks


def parent_in(callbacks: Any) -> UUID | None:
    """The run that a call with these callbacks belongs to."""
    return callbacks.parent_run_id if isinstance(callbacks, BaseCallbackManager) else None
