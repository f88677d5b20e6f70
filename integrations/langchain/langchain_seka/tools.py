"""Tools of LangChain as the model's chat template takes them, and the model's calls as LangChain takes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from langchain_core.messages import InvalidToolCall, ToolCall
from langchain_core.messages.tool import ToolCallChunk, invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from seka_rag import Generation
from seka_rag.frameworks import tool_choice

Tool: TypeAlias = Mapping[str, object] | type | Callable[..., Any] | BaseTool


def bound(tools: Sequence[Tool], choice: object, strict: bool | None) -> dict[str, object]:
    """Options of a call that offers these tools.

    Raises:
        SettingError: a choice that is no tool's name.
    """
    offered = [convert_to_openai_tool(tool, strict=strict) for tool in tools]
    choice = tool_choice(choice, [tool["function"]["name"] for tool in offered])
    return {"tools": offered, "tool_choice": choice, **({"strict": True} if strict else {})}


def calls(generation: Generation) -> list[ToolCall]:
    return [tool_call(name=c.name, args=dict(c.arguments), id=c.id) for c in generation.tool_calls]


def invalid_calls(generation: Generation) -> list[InvalidToolCall]:
    return [invalid_tool_call(name=c.name, args=c.text, id=c.id, error=c.error) for c in generation.invalid_tool_calls]


def chunks(generation: Generation) -> list[ToolCallChunk]:
    """Each call in one piece.

    LangChain completes arguments that are cut off when it joins chunks. Invalid ones are quoted, so that they stay
    invalid.
    """
    written = [(c.name, json.dumps(dict(c.arguments), ensure_ascii=False), c.id) for c in generation.tool_calls]
    written += [(c.name or "", json.dumps(c.text, ensure_ascii=False), c.id) for c in generation.invalid_tool_calls]
    return [tool_call_chunk(name=name, args=args, id=id_, index=i) for i, (name, args, id_) in enumerate(written)]
