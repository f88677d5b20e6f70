"""Which tool the model is to call, in the one form that it takes, and how an answer is to be formed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from seka_rag.errors import SettingError


def tool_choice(value: object, names: Sequence[str]) -> str:
    """What frameworks write for a choice of tools, as a model takes it: "auto", "none", "any" or a tool's name.

    Args:
        value: one of these, "required", None or a bool, or OpenAI's ``{"type": "function", "function": {"name": ...}}``.
        names: of the tools.

    Raises:
        SettingError: something else, or the name of no tool.
    """
    choice = value
    if isinstance(value, Mapping):
        function = value.get("function", value)
        choice = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(choice, str):
            raise SettingError(
                f'tool_choice={value!r}: use {{"type": "function", "function": {{"name": ...}}}} or the name'
            )
    if choice is None or isinstance(choice, bool):
        choice = {None: "auto", True: "any", False: "none"}[choice]
    choice = "any" if choice == "required" else choice
    if choice not in ("auto", "any", "none", *names):
        raise SettingError(
            f"tool_choice={value!r}: use 'auto', 'any', 'none' or the name of a tool: {', '.join(names)}"
        )
    return str(choice)


def schema_of(response_format: object) -> Any:
    """The JSON schema of OpenAI's ``response_format``; True for any JSON object, None for plain text.

    Raises:
        SettingError: another form.
    """
    if isinstance(response_format, Mapping):
        kind = response_format.get("type")
        inner = response_format.get("json_schema")
        if kind == "json_schema" and isinstance(inner, Mapping) and isinstance(inner.get("schema"), Mapping):
            return inner["schema"]
        if kind in ("json_object", "text"):
            return True if kind == "json_object" else None
    raise SettingError(
        'response_format is {"type": "json_schema", "json_schema": {"name": ..., "schema": ...}} or {"type": "json_object"}, '
        f"not {str(response_format)[:80]!r}"
    )
