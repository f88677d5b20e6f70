"""Tools between LlamaIndex and the model: what may be called, what was called, and what it returned."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ContentBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools import BaseTool
from llama_index.llms.seka.context import choose, context_passages

from seka_rag import Generation, Span
from seka_rag.frameworks import NOTHING_CHOSEN, Highlights, HighlightSettings, InvalidToolCall, ToolCall, tool_choice

TOOL_ROLES = frozenset({MessageRole.TOOL, MessageRole.FUNCTION})


def tool_options(
    tools: Sequence[BaseTool | Mapping[str, object]], choice: object, *, required: bool
) -> dict[str, object]:
    """The options of a call that may use these tools.

    Args:
        choice: "auto", "none", "any", "required", the name of a tool or OpenAI's form of it; None leaves it to
            ``required``.

    Raises:
        SettingError: another choice.
    """
    if not tools:
        return {}
    form = [t.metadata.to_openai_tool() if isinstance(t, BaseTool) else dict(t) for t in tools]
    names = [str(tool.get("function", tool).get("name")) for tool in form]
    return {"tools": form, "tool_choice": tool_choice(choice or ("any" if required else "auto"), names)}


def answer_blocks(generation: Generation) -> list[ContentBlock]:
    """What a model thought and said, and the calls that it asks for, as blocks of its message."""
    thought: list[ContentBlock] = [ThinkingBlock(content=generation.thoughts)] if generation.thoughts else []
    text: list[ContentBlock] = [TextBlock(text=generation.text)] if generation.text or not generation.tool_calls else []
    calls = generation.tool_calls
    return [
        *thought,
        *text,
        *(ToolCallBlock(tool_call_id=c.id, tool_name=c.name, tool_kwargs=dict(c.arguments)) for c in calls),
    ]


def invalid_calls(calls: Sequence[InvalidToolCall]) -> list[dict[str, object]]:
    """Calls that were not written as they should be, as plain data."""
    return [{"id": c.id, "name": c.name, "text": c.text, "error": c.error} for c in calls]


def tool_selections(response: ChatResponse, *, error_if_none: bool) -> list[ToolSelection]:
    """The calls in a response.

    Raises:
        ValueError: there is none, and there should be; LlamaIndex's own error for this.
    """
    calls = [b for b in response.message.blocks if isinstance(b, ToolCallBlock)]
    if not calls and error_if_none:
        wrong = response.additional_kwargs.get("invalid_tool_calls") or []
        reasons = "".join(f"; {call['error']}" for call in wrong)
        raise ValueError(f"Expected at least one tool call, but got 0 tool calls{reasons}.")
    return [
        ToolSelection(tool_id=b.tool_call_id or "", tool_name=b.tool_name, tool_kwargs=_arguments(b.tool_kwargs))
        for b in calls
    ]


def only_first_call(response: ChatResponse) -> ChatResponse:
    """The response with at most one call."""
    blocks = response.message.blocks
    calls = [b for b in blocks if isinstance(b, ToolCallBlock)]
    if len(calls) < 2:
        return response
    kept = [b for b in blocks if not isinstance(b, ToolCallBlock) or b is calls[0]]
    return response.model_copy(update={"message": response.message.model_copy(update={"blocks": kept})})


def earlier_calls(message: ChatMessage) -> list[ToolCall]:
    """The calls in a message of the model."""
    calls = [b for b in message.blocks if isinstance(b, ToolCallBlock)]
    return [
        ToolCall(b.tool_name, _arguments(b.tool_kwargs), *([b.tool_call_id] if b.tool_call_id else [])) for b in calls
    ]


def _arguments(value: object) -> dict[str, object]:
    try:
        value = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {}


def tool_highlights(messages: Sequence[ChatMessage], settings: HighlightSettings) -> Highlights:
    """Highlights in what trusted tools returned.

    The source of such a passage is the tool's name, as the model's call with the same id gives it. The question is
    the last message of the user before.
    """
    names = {c.id: c.name for m in messages for c in earlier_calls(m)}
    question, spans, warnings, looked = "", list[tuple[int, Span]](), list[str](), False
    for i, message in enumerate(messages):
        if message.role == MessageRole.USER:
            question = message.content or ""
        name = names.get(str(message.additional_kwargs.get("tool_call_id")))
        if message.role in TOOL_ROLES and name is not None and settings.trusts(name):
            chosen, told = choose(context_passages(name, message.content or ""), question, settings.highlighter)
            spans += [(i, span) for span in chosen]
            warnings += told
            looked = True
    return Highlights(tuple(spans), tuple(warnings), NOTHING_CHOSEN if looked and not spans else None)
