"""What one task or thread is about: the nodes that it retrieved, what was chosen in them, and what the model answered.

LlamaIndex hands bare text to the model's templates. It does tell of every retrieval and every answer where it happens, in
the context (``contextvars``) of the request. Tasks and threads that are started inside see what was known then.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from llama_index.core.base.response.schema import AsyncStreamingResponse, StreamingResponse
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.query import QueryEndEvent, QueryStartEvent
from llama_index.core.instrumentation.events.retrieval import RetrievalEndEvent
from llama_index.core.instrumentation.events.span import SpanDropEvent
from llama_index.core.instrumentation.events.synthesis import SynthesizeEndEvent, SynthesizeStartEvent
from llama_index.core.schema import NodeWithScore
from llama_index.core.types import TokenAsyncGen, TokenGen

from seka_rag.frameworks import KEY, place_passages

#: Answers of the model that are remembered in one task or thread.
_MOST_ANSWERS = 256
#: Characters of a piece of a node that a splitter left at a border of the context. A shorter one is not looked for.
LEAST = 12


def _answers(known: Iterable[str] = ()) -> deque[str]:
    return deque(known, maxlen=_MOST_ANSWERS)


@dataclass(frozen=True, eq=False)
class Flow:
    """What is known of a request. Its lists are shared by all tasks and threads of the request.

    Attributes:
        nodes: of the latest retrieval.
        query: of it.
        choice: what a ``HighlightPostprocessor`` chose in them since.
        made: choices of models without a postprocessor, by highlighter, question and the nodes that stand in the context.
        answers: what the model answered: none of it is evidence.
        asking: the span of the outermost query engine that is at work.
        answering: the span of the synthesizer that is at work.
        reports: of the calls for its response; None where none is made.
        listeners: who else is to get them.
    """

    nodes: tuple[NodeWithScore, ...] = ()
    query: str = ""
    choice: Any = None
    made: dict[Any, Any] = field(default_factory=dict)
    answers: deque[str] = field(default_factory=_answers)
    asking: str | None = None
    answering: str | None = None
    reports: list[dict[str, object]] | None = None
    listeners: tuple[list[dict[str, object]], ...] = ()

    def holds(self, text: str) -> bool:
        """Whether one of the nodes stands in a text, which is more than the question that they were retrieved with."""
        own = [found.node.get_content() for found in self.nodes]
        return text.strip() != self.query.strip() and bool(place_passages(own, text, least=LEAST))


#: Lists of ``collect_reports`` that are open here.
collecting: ContextVar[tuple[list[dict[str, object]], ...]] = ContextVar("seka_collected_reports", default=())
_flow: ContextVar[Flow | None] = ContextVar("seka_flow", default=None)


def current_flow() -> Flow:
    """That of this task or thread."""
    flow = _flow.get()
    if flow is None:
        flow = Flow()
        _flow.set(flow)
    return flow


def set_choice(choice: Any) -> None:
    """A postprocessor has chosen."""
    _flow.set(replace(current_flow(), choice=choice))


def shared_answers() -> deque[str] | None:
    """Where all calls of one query or response remember their answers, whichever tasks they run in; None outside of these."""
    flow = current_flow()
    return None if flow.asking is None and flow.answering is None else flow.answers


def remember(answer: str, shared: deque[str] | None) -> None:
    """Keep what the model answered: where its query or response shares it, else for this task or thread alone."""
    if shared is not None:
        shared.append(answer)
    else:
        flow = current_flow()
        _flow.set(replace(flow, answers=_answers([*flow.answers, answer])))


class _Watch(BaseEventHandler):
    """Keeps the flow."""

    @classmethod
    def class_name(cls) -> str:
        return "SekaFlow"

    def handle(self, event: BaseEvent, **kwargs: object) -> None:
        flow = current_flow()
        if isinstance(event, QueryStartEvent) and flow.asking is None:
            _flow.set(replace(flow, asking=event.span_id, answers=_answers()))
        elif isinstance(event, RetrievalEndEvent):
            asked = event.str_or_query_bundle
            query = asked if isinstance(asked, str) else asked.query_str
            _flow.set(replace(flow, nodes=tuple(event.nodes), query=query, choice=None, made={}))
        elif isinstance(event, SynthesizeStartEvent):
            answers = flow.answers if flow.asking is not None else _answers(flow.answers)
            _flow.set(replace(flow, answering=event.span_id, answers=answers, reports=[], listeners=collecting.get()))
        elif isinstance(event, SynthesizeEndEvent) and flow.reports is not None:
            response = event.response
            if hasattr(response, "metadata"):
                response.metadata = {**(response.metadata or {}), KEY: {"reports": flow.reports}}
            if isinstance(response, StreamingResponse):
                response.response_gen = _read(response.response_gen, flow)
            elif isinstance(response, AsyncStreamingResponse):
                response.response_gen = _aread(response.response_gen, flow)
        self._end(event)

    def _end(self, event: BaseEvent) -> None:
        """Leave a query engine or a synthesizer that is done, or that failed."""
        flow, ends = current_flow(), isinstance(event, QueryEndEvent | SynthesizeEndEvent | SpanDropEvent)
        if ends and event.span_id == flow.answering:
            _flow.set(replace(flow, answering=None, reports=None, listeners=()))
        elif ends and event.span_id == flow.asking:
            _flow.set(replace(flow, asking=None))


def _read(pieces: TokenGen, flow: Flow) -> TokenGen:
    """A stream whose calls, which may begin when it is read, belong to the response that it is of, wherever that is."""
    while True:
        token = _flow.set(flow)
        try:
            piece = next(pieces)
        except StopIteration:
            return
        finally:
            _flow.reset(token)
        yield piece


async def _aread(pieces: TokenAsyncGen, flow: Flow) -> TokenAsyncGen:
    while True:
        token = _flow.set(flow)
        try:
            piece = await anext(pieces)
        except StopAsyncIteration:
            return
        finally:
            _flow.reset(token)
        yield piece


_watching = threading.Lock()  # taken once and never released


def watch() -> None:
    """Let LlamaIndex tell of retrievals and answers from now on. The first model or postprocessor that is made does this."""
    if _watching.acquire(blocking=False):
        get_dispatcher().add_event_handler(_Watch())
