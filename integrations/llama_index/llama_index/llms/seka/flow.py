"""What one task or thread is about: the nodes that it retrieved, what was chosen in them, and what the model answered.

LlamaIndex hands bare text to the model's templates. It does tell of every retrieval and every answer where it happens, in
the context (``contextvars``) of the request. Tasks and threads that are started inside see what was known then.
"""

from __future__ import annotations

import threading
from collections import deque
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from llama_index.core.base.response.schema import AsyncStreamingResponse, StreamingResponse
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.retrieval import RetrievalEndEvent
from llama_index.core.instrumentation.events.synthesis import SynthesizeEndEvent, SynthesizeStartEvent
from llama_index.core.schema import NodeWithScore

from seka_rag.frameworks import KEY, place_passages

#: Answers of the model that are remembered in one task or thread.
_MOST_ANSWERS = 256
#: Characters of a piece of a node that a splitter left at a border of the context. A shorter one is not looked for.
LEAST = 12


@dataclass(frozen=True, eq=False)
class Flow:
    """What is known of a request. Its lists are shared by all tasks and threads of the request.

    Attributes:
        nodes: of the latest retrieval.
        query: of it.
        choice: what a ``HighlightPostprocessor`` chose in them since.
        made: choices of models without a postprocessor, by highlighter, question and the nodes that stand in the context.
        answers: what the model answered: none of it is evidence.
        reports: of the calls for one response.
        listeners: who else is to get them; a stream may be read when they no longer listen.
    """

    nodes: tuple[NodeWithScore, ...] = ()
    query: str = ""
    choice: Any = None
    made: dict[Any, Any] = field(default_factory=dict)
    answers: deque[str] = field(default_factory=lambda: deque(maxlen=_MOST_ANSWERS))
    reports: list[dict[str, object]] = field(default_factory=list)
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


class _Watch(BaseEventHandler):
    """Keeps the flow."""

    @classmethod
    def class_name(cls) -> str:
        return "SekaFlow"

    def handle(self, event: BaseEvent, **kwargs: object) -> None:
        if isinstance(event, RetrievalEndEvent):
            asked = event.str_or_query_bundle
            query = asked if isinstance(asked, str) else asked.query_str
            _flow.set(replace(current_flow(), nodes=tuple(event.nodes), query=query, choice=None, made={}))
        elif isinstance(event, SynthesizeStartEvent):
            _flow.set(replace(current_flow(), reports=[], listeners=collecting.get()))
        elif isinstance(event, SynthesizeEndEvent):
            response, reports = event.response, current_flow().reports
            if hasattr(response, "metadata"):  # a stream brings its report later, into the same list
                response.metadata = {**(response.metadata or {}), KEY: {"reports": reports}}
            if not isinstance(response, StreamingResponse | AsyncStreamingResponse):
                _flow.set(replace(current_flow(), reports=[], listeners=()))


_watching = threading.Lock()  # taken once and never released


def watch() -> None:
    """Let LlamaIndex tell of retrievals and answers from now on. The first model or postprocessor that is made does this."""
    if _watching.acquire(blocking=False):
        get_dispatcher().add_event_handler(_Watch())
