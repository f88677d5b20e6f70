"""What retrievers returned and prompts were filled with, by run, so that a model call can find its own evidence.

LangChain tells a callback handler of every run and its parent. A model call only knows its own parent, and one root
may hold many chains at once (``map``, ``batch`` inside a step), so the root says nothing. A call therefore looks for
the nearest ancestor that has a finished retriever below it, and there for the prompts that made its own messages.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager, Callbacks
from langchain_core.documents import Document
from langchain_core.prompt_values import PromptValue
from langchain_core.tracers.context import register_configure_hook

from langchain_seka.messages import MessageError, text_of
from langchain_seka.retrievals import Identity, Retrieval, documents_in, dropped_by

#: Trees of runs that are kept at once. A tree goes when its root ends; this bounds those whose end is never told.
_MOST_TREES = 4096
#: Type and text of a message; ("text", prompt) of a completion.
Message = tuple[str, str]


@dataclass
class FilledPrompt:
    """A prompt template, as LangChain writes it down, what it was filled with, and the messages that it made."""

    template: dict[str, object]
    inputs: object
    number: int = field(default_factory=count().__next__)  # in order of their start
    made: frozenset[int] = frozenset()  # hashes of the messages
    by_hand: bool = False  # filled by a ``HighlightPrompt``, which marks by itself


@dataclass(frozen=True)
class Evidence:
    """What a model call can draw on.

    Attributes:
        retrievals: what its retrievers returned.
        prompts: those that may hold it, the latest first.
        dropped: documents that a step of the chain was given and did not return.
        variables: what the call's own ``LLMChain`` filled its templates with, of which it says nothing else; one for each
            prompt that it made.
        standing: where it stands in which messages, once somebody has looked: highlights and citations both do.
    """

    retrievals: tuple[Retrieval, ...]
    prompts: tuple[FilledPrompt, ...]
    dropped: frozenset[Identity] = frozenset()
    variables: tuple[Mapping[str, object], ...] = ()
    standing: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass
class _Run:
    parent: UUID | None  # None for a root
    query: str = ""
    prompt: FilledPrompt | None = None
    given: tuple[Document, ...] = ()  # documents among its input
    variables: tuple[Mapping[str, object], ...] = ()  # of an ``LLMChain``
    children: dict[UUID, None] = field(default_factory=dict)
    # of the run itself and all below it
    retrievals: dict[UUID, Retrieval] = field(default_factory=dict)
    prompts: dict[int, list[FilledPrompt]] = field(default_factory=dict)  # by the hash of each message
    dropped: set[Identity] = field(default_factory=set)


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

    def evidence(self, run: UUID | None, messages: Sequence[Message]) -> Evidence | None:
        """What the nearest ancestor with a finished retriever holds, beginning at ``run`` itself; None if none has."""
        with self._lock:
            variables = self._runs[run].variables if run in self._runs else ()
            for holder in self._upwards(run):
                if holder.retrievals:
                    prompts = _made_of(holder.prompts, messages)
                    retrievals, dropped = tuple(holder.retrievals.values()), frozenset(holder.dropped)
                    return Evidence(retrievals, prompts, dropped, variables)
        return None

    def prompts(self, run: UUID | None, messages: Sequence[Message]) -> tuple[FilledPrompt, ...]:
        """The prompts that made these messages, below the nearest ancestor that has any; the latest first."""
        with self._lock:
            return next(filter(None, (_made_of(h.prompts, messages) for h in self._upwards(run))), ())

    def _upwards(self, run: UUID | None) -> Iterator[_Run]:
        while run is not None and run in self._runs:
            yield self._runs[run]
            run = self._runs[run].parent

    # --- the tree

    def _begin(self, run_id: UUID, parent: UUID | None, **what: Any) -> None:
        with self._lock:
            if parent in self._runs:
                assert parent is not None
                self._runs[parent].children[run_id] = None
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
            elif not (run.children or run.retrievals or run.prompts or run.dropped):
                del self._runs[run.parent].children[run_id]
                del self._runs[run_id]

    def _drop(self, root: UUID) -> None:
        self._roots.pop(root, None)
        stack = [root]
        while stack:
            run = self._runs.pop(stack.pop(), None)
            stack += run.children if run else []

    # --- what LangChain tells

    def on_chain_start(
        self,
        serialized: dict[str, object],
        inputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: object,
    ) -> None:
        is_prompt = kwargs.get("run_type") == "prompt" and serialized
        prompt = FilledPrompt(serialized, inputs, by_hand=_by_hand.get()) if is_prompt else None
        own = _variables(inputs) if kwargs.get("name") == "LLMChain" else ()
        self._begin(run_id, parent_run_id, prompt=prompt, given=documents_in(inputs), variables=own)

    def on_tool_start(
        self, serialized: object, input_str: str, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: object
    ) -> None:
        self._begin(run_id, parent_run_id)

    def on_retriever_start(
        self, serialized: object, query: str, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: object
    ) -> None:
        self._begin(run_id, parent_run_id, query=query)

    def on_retriever_end(self, documents: Sequence[Document], *, run_id: UUID, **kwargs: object) -> None:
        with self._lock:
            run = self._runs.get(run_id)
            if run is not None:
                inner = tuple(run.retrievals)  # a retriever that asks others returns what it chose from theirs
                retrieval = Retrieval(run.query, tuple(documents))
                for holder in self._upwards(run_id):
                    for other in inner:
                        holder.retrievals.pop(other, None)
                    holder.retrievals[run_id] = retrieval
        self._finish(run_id)

    def on_chain_end(self, outputs: object, *, run_id: UUID, **kwargs: object) -> None:
        with self._lock:
            run = self._runs.get(run_id)
            if run is not None and run.prompt is not None and isinstance(outputs, PromptValue):
                run.prompt.made = frozenset(map(hash, _messages_of(outputs)))
                for holder in self._upwards(run_id):
                    for key in run.prompt.made:
                        holder.prompts.setdefault(key, []).append(run.prompt)
            if run is not None and (dropped := dropped_by(run.given, documents_in(outputs))):
                for holder in self._upwards(run_id):
                    holder.dropped |= dropped
        self._finish(run_id)

    def on_tool_end(self, output: object, *, run_id: UUID, **kwargs: object) -> None:
        self._finish(run_id)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: object) -> None:
        self._finish(run_id)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: object) -> None:
        self._finish(run_id)

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kwargs: object) -> None:
        self._finish(run_id)


def _messages_of(prompt: PromptValue) -> Iterator[Message]:
    yield "text", prompt.to_string()
    for message in prompt.to_messages():
        try:
            yield message.type, text_of(message)
        except MessageError:  # one that no model here is given
            continue


def _made_of(prompts: dict[int, list[FilledPrompt]], messages: Iterable[Message]) -> tuple[FilledPrompt, ...]:
    """The prompts that made any of these messages. If there are some that made nothing else, only those.

    The hash of a completion's text is among what every prompt made, so it does not count as something else.
    """
    asked = set(map(hash, messages))
    found = {p.number: p for key in asked for p in prompts.get(key, ())}
    whole = {number: p for number, p in found.items() if len(p.made - asked) <= 1}
    return tuple(p for _, p in sorted((whole or found).items(), reverse=True))


def _variables(inputs: object) -> tuple[Mapping[str, object], ...]:
    """What an ``LLMChain`` is given for each prompt: one, or as many as are in the list of its ``apply``."""
    several = inputs.get("input_list") if isinstance(inputs, Mapping) else None
    given = several if isinstance(several, list) else [inputs]
    return tuple(own for own in given if isinstance(own, Mapping))


#: Set while a ``HighlightPrompt`` fills its template.
_by_hand: ContextVar[bool] = ContextVar("seka_by_hand", default=False)


@contextmanager
def filling_by_hand() -> Iterator[None]:
    """The template that is filled here gets its highlights from who fills it, and from nobody else."""
    token = _by_hand.set(True)
    try:
        yield
    finally:
        _by_hand.reset(token)


CAPTURE = Capture()
_hook: ContextVar[Capture | None] = ContextVar("seka_capture", default=CAPTURE)
_installed = threading.Lock()  # taken once and never released


def install() -> None:
    """Let LangChain tell of every run from now on, in every thread. The first model that is made does this."""
    if _installed.acquire(blocking=False):
        register_configure_hook(_hook, inheritable=True)  # LangGraph's nodes do not ask anew, they only inherit


@contextmanager
def aside(callbacks: Callbacks) -> Iterator[Callbacks]:
    """The callbacks without the handler, which stays out of the runs that begin here.

    LangChain tells the start of an asynchronous completion run to inline handlers only, if there are any; ours has no
    use for it and must not keep it from others.
    """
    token = _hook.set(None)
    try:
        yield _stripped(callbacks)
    finally:
        _hook.reset(token)


def _stripped(callbacks: Callbacks) -> Callbacks:
    if isinstance(callbacks, BaseCallbackManager):
        callbacks = callbacks.copy()
        if CAPTURE in callbacks.handlers:
            callbacks.remove_handler(CAPTURE)
        return callbacks
    if isinstance(callbacks, list):
        return [_stripped(c) for c in callbacks if c is not CAPTURE]
    return callbacks


def parent_in(callbacks: object) -> UUID | None:
    """The run that a call with these callbacks belongs to."""
    return callbacks.parent_run_id if isinstance(callbacks, BaseCallbackManager) else None
