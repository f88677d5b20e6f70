"""Answers as objects: what ``with_structured_output`` puts behind the model. A cut-off answer is an error."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import BaseOutputParser, JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass

from seka_rag import SekaError

Method = Literal["function_calling", "json_schema", "json_mode"]


class _Whole:
    """Refuses an answer that ended before it was complete, instead of completing it."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        message = result[0].message if isinstance(result[0], ChatGeneration) else None
        reason = message.response_metadata.get("finish_reason") if message is not None else None
        if reason == "length":
            raise OutputParserException(
                "the answer was cut off at max_tokens, so its JSON is not complete; raise max_tokens", result[0].text
            )
        if reason and self.needs_call and not (isinstance(message, AIMessage) and message.tool_calls):
            raise OutputParserException("the answer holds no complete tool call", result[0].text)
        return super().parse_result(result, partial=partial)  # type: ignore[misc]  # of the parser that it is mixed into

    needs_call: ClassVar[bool] = False


class _Json(_Whole, JsonOutputParser):
    pass


class _Pydantic(_Whole, PydanticOutputParser):
    pass


class _ToolJson(_Whole, JsonOutputKeyToolsParser):
    needs_call: ClassVar[bool] = True


class _ToolPydantic(_Whole, PydanticToolsParser):
    needs_call: ClassVar[bool] = True


def options_and_parser(schema: object, method: str, strict: bool | None) -> tuple[dict[str, Any], BaseOutputParser]:
    """What to bind to the model, and what reads its answer.

    Raises:
        SekaError: a method that is not there, or one that needs a schema without it.
    """
    if schema is None and method != "json_mode":
        raise SekaError(f"method={method!r} needs a schema; only 'json_mode' takes any JSON object")
    is_model = isinstance(schema, type) and is_basemodel_subclass(schema)
    told: dict[str, Any] = {}
    if schema is not None:
        named = {"kwargs": {"method": method, "strict": strict}, "schema": convert_to_json_schema(schema)}
        told["ls_structured_output_format"] = named
    if method in ("json_schema", "json_mode"):
        parser = _Pydantic(pydantic_object=schema) if is_model else _Json()
        return {**told, "json_schema": True if schema is None else convert_to_json_schema(schema)}, parser
    if method == "function_calling":
        name = convert_to_openai_tool(schema)["function"]["name"]
        told |= {"tools": [schema], "tool_choice": name, "strict": strict}
        if is_model:
            return told, _ToolPydantic(tools=[schema], first_tool_only=True)
        return told, _ToolJson(key_name=name, first_tool_only=True)
    raise SekaError(f"method={method!r}: use 'function_calling', 'json_schema' or 'json_mode'")
