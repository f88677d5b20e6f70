"""Automatic highlighting, told to those who want to see it, in LlamaIndex's own instrumentation."""

from __future__ import annotations

from collections import deque
from typing import Any

from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.llms.seka.html import box, marked_html

from seka_rag import Prompt


class HighlightEvent(BaseEvent):
    """One call of a SekaLLM ended: its messages with their highlights, and the report. It holds the messages' text.

    Fired once for each call: sync, async or streamed (then at the end of the stream).
    """

    model_name: str = Field(description="The model.")
    prompts: tuple[Prompt, ...] = Field(description="The text of each message, or the one prompt, with its highlights.")
    report: dict[str, Any] = Field(description='What is in additional_kwargs["seka"] of the response.')

    @classmethod
    def class_name(cls) -> str:
        return "SekaHighlightEvent"


class HighlightHandler(BaseEventHandler):
    """Keeps what was highlighted in the latest calls. A notebook displays it; all text is escaped.

    >>> from llama_index.core.instrumentation import get_dispatcher
    >>> seen = HighlightHandler()
    >>> get_dispatcher().add_event_handler(seen)
    >>> seen.events  # after a query: one event for each call of the model
    []
    """

    keep: int = Field(default=100, ge=1, description="How many calls to keep.")

    _kept: deque[HighlightEvent] = PrivateAttr()

    def __init__(self, keep: int = 100) -> None:
        super().__init__(keep=keep)
        self._kept = deque(maxlen=keep)

    @classmethod
    def class_name(cls) -> str:
        return "HighlightHandler"

    @property
    def events(self) -> list[HighlightEvent]:
        """The latest calls, oldest first."""
        return list(self._kept)

    def handle(self, event: BaseEvent, **kwargs: object) -> None:
        if isinstance(event, HighlightEvent):
            self._kept.append(event)

    def _repr_html_(self) -> str:
        calls = []
        for n, event in enumerate(self.events, start=1):
            report = event.report
            title = f"Call {n}: {event.model_name}, {report['method']}, {report['tokens_edited']} tokens edited"
            warned = [marked_html(Prompt(f"warning: {warning}")) for warning in report["warnings"]]
            calls.append(box(title, "\n".join([*map(marked_html, event.prompts), *warned])))
        return "\n".join(calls) or "<p>no calls yet</p>"
