"""Highlights for agents of ``create_agent``: what trusted tools retrieved, and on request the instructions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

try:
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
except ImportError as error:  # the extra of seka-rag brings langchain-core alone
    raise ImportError("langchain is not installed. Install it with: pip install langchain") from error
from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage

from langchain_seka.highlights import from_tools
from langchain_seka.marks import mark_message
from langchain_seka.messages import text_of
from seka_rag import Span
from seka_rag.frameworks import INSTRUCTIONS, QUESTION, Highlighter, HighlightMode, HighlightSettings, said


class SekaMiddleware(AgentMiddleware):
    """Marks what retriever tools brought into an agent's conversation, each time before the model is called.

    A tool counts only if it is named here: its output is text that somebody else wrote. It must return its documents as
    the artifact of its message, as ``create_retriever_tool(..., response_format="content_and_artifact")`` does.

    Example:
        .. code-block:: python

            marking = SekaMiddleware(tools=["search"])
            agent = create_agent(ChatSeka(model=...), [search], middleware=[marking])

    Args:
        tools: names of the tools whose documents may be highlighted.
        highlighter: chooses in them, for the latest message of the user; with a trust policy, see ``Trusted``.
        highlight: "auto" for the documents; a list may add "instructions", the system prompt, and "question", the user's
            message.

    Raises:
        SekaError, SpanError: a setting that means nothing.
    """

    def __init__(
        self, tools: Sequence[str], *, highlighter: str | Highlighter = "sentences", highlight: HighlightMode = "auto"
    ) -> None:
        super().__init__()
        self._settings = HighlightSettings.of(
            {"highlight": highlight, "highlighter": highlighter, "highlight_tools": tools}
        )

    def wrap_model_call(self, request: ModelRequest, handler: Callable[[ModelRequest], ModelResponse]) -> ModelResponse:
        return handler(self._marked(request))

    async def awrap_model_call(
        self, request: ModelRequest, handler: Callable[[ModelRequest], Awaitable[ModelResponse]]
    ) -> ModelResponse:
        return await handler(self._marked(request))

    def _marked(self, request: ModelRequest) -> ModelRequest:
        messages: list[BaseMessage] = list(request.messages)
        spans: dict[int, list[Span]] = {}
        if self._settings.has("context"):
            for i, span in from_tools(messages, self._settings).spans:
                spans.setdefault(i, []).append(span)
        system = request.system_message
        user = next((i for i in range(len(messages) - 1, -1, -1) if isinstance(messages[i], HumanMessage)), None)
        if self._settings.has("question") and user is not None:
            spans[user] = list(said(text_of(messages[user]), QUESTION))
        if self._settings.has("instructions") and system is not None:
            system = mark_message(system, said(text_of(system), INSTRUCTIONS))
        for i, own in spans.items():
            messages[i] = mark_message(messages[i], own)
        trusted = [m.name for i, m in enumerate(messages) if isinstance(m, ToolMessage) and i in spans]
        settings = {**request.model_settings, "highlight_tools": sorted({name for name in trusted if name})}
        return request.override(messages=messages, system_message=system, model_settings=settings)
