"""Tools of LangChain as the model's chat template takes them, and the model's calls as LangChain takes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from langchain_core.messages import InvalidToolCall, ToolCall
from langchain_core.messages.tool import ToolCallChunk, invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from seka_rag import Generation, SekaError

Tool: TypeAlias = Mapping[str, Any] | type | Callable[..., Any] | BaseTool


def bound(tools: Sequence[Tool], tool_choice: Any, strict: bool | None) -> dict[str, Any]:
    """Options of a call that offers these tools.

    Raises:
        SekaError: a choice that is no tool's name.
    """
    told = [convert_to_openai_tool(tool, strict=strict) for tool in tools]
    names = [tool["function"]["name"] for tool in told]
    if isinstance(tool_choice, Mapping):  # OpenAI's form
        tool_choice = tool_choice.get("function", tool_choice).get("name")
    choice = {None: "auto", True: "any", False: "none", "required": "any"}.get(tool_choice, tool_choice)
    if choice not in ("auto", "any", "none", *names):
        raise SekaError(
            f"tool_choice={tool_choice!r}: use 'auto', 'any', 'none' or the name of a tool: {', '.join(names)}"
        )
    return {"tools": told, "tool_choice": choice, **({"strict": True} if strict else {})}


def calls(generation: Generation) -> list[ToolCall]:
    return [tool_call(name=c.name, args=dict(c.arguments), id=c.id) for c in generation.tool_calls]


def invalid_calls(generation: Generation) -> list[InvalidToolCall]:
    return [invalid_tool_call(name=c.name, args=c.text, id=c.id, error=c.error) for c in generation.invalid_tool_calls]


def chunks(generation: Generation) -> list[ToolCallChunk]:
    """Each call in one piece.

    LangChain completes arguments that are cut off when it joins chunks. Invalid ones are quoted, so that they stay
    invalid.
    """
    said = [(c.name, json.dumps(dict(c.arguments), ensure_ascii=False), c.id) for c in generation.tool_calls]
    said += [(c.name or "", json.dumps(c.text, ensure_ascii=False), c.id) for c in generation.invalid_tool_calls]
    return [tool_call_chunk(name=name, args=args, id=id_, index=i) for i, (name, args, id_) in enumerate(said)]


def warnings(generation: Generation) -> list[str]:
    return [f"the model wrote a tool call that cannot be read: {c.error}" for c in generation.invalid_tool_calls]


def schema_of(response_format: Any) -> Any:
    """The JSON schema of OpenAI's ``response_format``; True for any JSON object, None for plain text.

    Raises:
        SekaError: another form.
    """
    if isinstance(response_format, Mapping):
        kind = response_format.get("type")
        inner = response_format.get("json_schema")
        if kind == "json_schema" and isinstance(inner, Mapping) and isinstance(inner.get("schema"), Mapping):
            return inner["schema"]
        if kind in ("json_object", "text"):
            return True if kind == "json_object" else None
    raise SekaError(
        'response_format is {"type": "json_schema", "json_schema": {"name": ..., "schema": ...}} or {"type": "json_object"}, '
        f"not {str(response_format)[:80]!r}"
    )
