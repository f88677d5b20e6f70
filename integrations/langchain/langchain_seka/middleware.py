"""Highlights for agents of ``create_agent``: what trusted tools retrieved, and on request the instructions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

try:
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
except ImportError as error:  # the extra of seka-rag brings langchain-core alone
    raise ImportError("langchain is not installed. Install it with: pip install langchain") from error
from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage

from langchain_seka.highlights import from_tools
from langchain_seka.marks import has_marks, mark_message
from langchain_seka.messages import text_of
from seka_rag.frameworks import INSTRUCTIONS, QUESTION, Highlighter, HighlightMode, HighlightSettings, said


class SekaMiddleware(AgentMiddleware):
    """Marks what retriever tools brought into an agent's conversation, each time before the model is called.

    Where nothing in it may be marked, the report of the answer says why, and the model's ``on_unmarked`` decides. Marks that
    messages carry already stay.

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
        system, own = request.system_message, self._settings
        if own.has("context"):
            found = from_tools(messages, own)
            answers = [i for i, m in enumerate(messages) if isinstance(m, ToolMessage) and own.trusts(m.name)]
            warnings, unmarked = found.warnings, found.unmarked
            for i in (i for i in answers if not has_marks(messages[i])):
                spans = [span for at, span in found.spans if at == i]
                messages[i] = mark_message(messages[i], spans, warnings=warnings, unmarked=unmarked)
                warnings, unmarked = (), None  # said once
        user = next((i for i in range(len(messages) - 1, -1, -1) if isinstance(messages[i], HumanMessage)), None)
        if own.has("question") and user is not None and not has_marks(messages[user]):
            messages[user] = mark_message(messages[user], said(text_of(messages[user]), QUESTION))
        if own.has("instructions") and system is not None and not has_marks(system):
            system = mark_message(system, said(text_of(system), INSTRUCTIONS))
        tools = own.tools if isinstance(own.tools, bool) else list(own.tools)
        settings = {**request.model_settings, "highlight_tools": tools if own.has("context") else []}
        return request.override(messages=messages, system_message=system, model_settings=settings)
