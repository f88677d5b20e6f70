"""The capture handler for those who want to see it: passed as ``callbacks=[SekaCallbackHandler()]``."""

from __future__ import annotations

import threading
from uuid import UUID

from langchain_core.callbacks import Callbacks
from langchain_core.outputs import ChatGeneration, LLMResult

from langchain_seka.capture import Capture, parent_in
from seka_rag.frameworks import KEY, Highlighter, HighlightMode, HighlightSettings, OnUnmarked


class SekaCallbackHandler(Capture):
    """Highlights for the runs that it is passed to, with settings of its own, and their reports.

    The models highlight by themselves without it. With it, one chain can have other settings than the model, such as
    ``highlight="auto"`` over one that is "off"; and ``reports`` keeps what each answer reported. Options of a call still come
    first.

    Example:
        .. code-block:: python

            handler = SekaCallbackHandler(highlighter="all")
            chain.invoke(question, config={"callbacks": [handler]})
            handler.reports[-1]["highlights"]

    Args:
        highlight: "auto", "off", or a list of "context", "instructions" and "question"; None leaves it to the model.
        highlighter: chooses in the passages, by name or as a callable; None leaves it to the model.
        highlight_tools: whose output may be highlighted; None leaves it to the model.
        on_unmarked: "warn", "raise" or "ignore"; None leaves it to the model.

    Raises:
        SekaError, SpanError: a setting that means nothing.
    """

    run_inline = False  # other handlers of the same run are told at the same time
    ignore_llm = False
    ignore_chat_model = False

    def __init__(
        self,
        *,
        highlight: HighlightMode | None = None,
        highlighter: str | Highlighter | None = None,
        highlight_tools: bool | list[str] | None = None,
        on_unmarked: OnUnmarked | None = None,
    ) -> None:
        super().__init__()
        self.settings = {
            "highlight": highlight,
            "highlighter": highlighter,
            "highlight_tools": highlight_tools,
            "on_unmarked": on_unmarked,
        }
        HighlightSettings.of(self.settings)
        self._reports: list[dict[str, object]] = []
        self._reporting = threading.Lock()

    @property
    def reports(self) -> list[dict[str, object]]:
        """What each answer reported, in the order of their ends."""
        with self._reporting:
            return list(self._reports)

    def on_chat_model_start(self, *args: object, **kwargs: object) -> None:
        """A model's own run holds nothing."""

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: object) -> None:
        self.collect(response)

    def collect(self, response: LLMResult) -> None:
        """Keep what its answers reported."""
        for generation in (g for row in response.generations for g in row):
            chat = isinstance(generation, ChatGeneration)
            info = generation.message.response_metadata if chat else generation.generation_info
            if isinstance(report := (info or {}).get(KEY), dict):
                with self._reporting:
                    self._reports.append(report)


def explicit(handlers: object) -> SekaCallbackHandler | None:
    """The handler among the handlers of a run, or among the callbacks of a config."""
    handlers = getattr(handlers, "handlers", handlers)
    own = [h for h in handlers if isinstance(h, SekaCallbackHandler)] if isinstance(handlers, list) else []
    return own[-1] if own else None


#: The run that a call belongs to, and the explicit handler that listens to it.
Origin = tuple[UUID | None, SekaCallbackHandler | None]


def origin_in(callbacks: Callbacks) -> Origin:
    return parent_in(callbacks), explicit(callbacks)
