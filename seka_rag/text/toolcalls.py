"""Tool calls in a model's text: the common ways of writing them, and how each is read back.

A call that is not written as its format demands is reported as invalid and never repaired.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

from seka_rag.text.plain import JsonObject, ReadOnlyJson

_ID = string.ascii_letters + string.digits
#: What the name of a tool is made of.
TOOL_NAME = r"[\w.:-]+"
_NAMED = re.compile(r"\s*(?P<name>" + TOOL_NAME + r")(?:\[CALL_ID\](?P<id>\w+))?(?:\[ARGS\])?\s*(?=\{)")
_NEXT = re.compile(r"\s*;\s*(?=\{)")
Piece = str | JsonObject
#: What a model may call, in the form of OpenAI: ``{"type": "function", "function": {...}}``.
Tool: TypeAlias = Mapping[str, Any]


def new_call_id() -> str:
    """Nine letters and digits: every chat template takes such an id, and Mistral's take no other."""
    return "".join(secrets.choice(_ID) for _ in range(9))


@dataclass(frozen=True)
class ToolCall:
    """A call that the model asks for: a tool's name, its arguments, and an id for the tool's answer to name."""

    name: str
    arguments: ReadOnlyJson
    id: str = field(default_factory=new_call_id)


@dataclass(frozen=True)
class InvalidToolCall:
    """What the model wrote where a call should be, and what is wrong with it."""

    text: str
    error: str
    name: str | None = None
    id: str = field(default_factory=new_call_id)


@dataclass(frozen=True)
class ReadText:
    """A model's text taken apart: what it says, the calls that it asks for, and what it thought before."""

    content: str
    calls: tuple[ToolCall, ...] = ()
    invalid: tuple[InvalidToolCall, ...] = ()
    thoughts: str | None = None


@dataclass(frozen=True)
class ToolFormat:
    """One way of writing tool calls.

    Attributes:
        name: for messages.
        marks: a chat template that holds all of these writes calls in this way.
        marker: what begins a call; in many vocabularies it is a control token.
        key: the field of a call's arguments.
        before, after: what is written around the JSON of one call, behind the marker.
        closing: what ends a call, behind ``after``.
        named: the name stands before the JSON, which then is the arguments alone.
        bare: a text that begins with ``{`` is a call without a marker.
    """

    name: str
    marks: tuple[str, ...]
    marker: str
    key: str = "arguments"
    before: str = ""
    after: str = ""
    closing: str = ""
    named: str = ""
    bare: bool = False

    # --- writing

    def pieces(self, tool: str, parameters: ReadOnlyJson) -> list[Piece]:
        """One call of a tool as literal text and JSON schemas, in the order of the text."""
        if self.named:
            return [self.marker, tool, self.named, dict(parameters)]
        shared = {key: parameters[key] for key in ("$defs", "definitions") if key in parameters}
        own = {key: value for key, value in parameters.items() if key not in shared}
        call = {
            "type": "object",
            "properties": {"name": {"const": tool}, self.key: own},
            "required": ["name", self.key],
            "additionalProperties": False,
            **shared,  # references in a schema count from its root
        }
        pieces: list[Piece] = [] if self.bare else [self.marker]
        return [p for p in (*pieces, self.before, call, self.after, self.closing) if p]

    # --- reading

    def read(self, text: str) -> ReadText:
        """A finished text, taken apart."""
        at = text.find(self.marker)
        if self.bare and re.match(r'\s*\{\s*"(name|type|parameters)"\s*:', text):
            at, body = 0, 0
        else:
            body = at + len(self.marker)
        if at < 0:
            return ReadText(text)
        said = [text[:at].rstrip()]
        found: list[ToolCall | InvalidToolCall] = []
        while at >= 0:
            calls, end = self._read_calls(text, body)
            found += calls
            at = text.find(self.marker, end)
            between = text[end : at if at >= 0 else len(text)].strip()
            said += [between] if between else []
            body = at + len(self.marker)
        return ReadText(
            "\n".join(part for part in said if part),
            tuple(c for c in found if isinstance(c, ToolCall)),
            tuple(c for c in found if isinstance(c, InvalidToolCall)),
        )

    def visible(self, text: str) -> str:
        """The beginning of an unfinished text that cannot become part of a call any more."""
        if self.bare and text.lstrip()[:1] in ("", "{"):  # first: what stands in its strings is no marker
            return ""
        if self.marker in text:
            return text[: text.index(self.marker)].rstrip()
        for n in range(min(len(self.marker) - 1, len(text)), 0, -1):
            if text.endswith(self.marker[:n]):
                text = text[:-n]
                break
        return text.rstrip()

    def _read_calls(self, text: str, at: int) -> tuple[list[ToolCall | InvalidToolCall], int]:
        """The calls behind one marker, and where they end."""
        head: dict[str, str] = {}
        if self.named and (named := _NAMED.match(text, at)):
            at = named.end()
            head = {key: value for key, value in named.groupdict().items() if value}
        calls: list[ToolCall | InvalidToolCall] = []
        while True:
            start = at
            try:
                value, at = _decode(text, at)
            except ValueError as error:
                marks = [m for m in (self.closing, self.marker) if m and text.find(m, at) >= 0]
                ends = [text.index(m, at) + (len(m) if m == self.closing else 0) for m in marks]
                end = min(ends, default=len(text))
                shown = text[start:end].removesuffix(self.closing).strip()
                return [*calls, InvalidToolCall(shown, f"this is not JSON: {error}", head.get("name"))], end
            values = [{**head, self.key: value}] if head else value if isinstance(value, list) else [value]
            calls += [_checked(v, self.key, text[start:at].strip()) for v in values]
            follows = _NEXT.match(text, at) if self.bare else None
            if follows is None:
                break
            at = follows.end()
        if self.closing:
            rest = len(text[at:]) - len(text[at:].lstrip())
            if text.startswith(self.closing, at + rest):
                return calls, at + rest + len(self.closing)
            if self.closing.startswith(text[at + rest :]):  # cut off while it was written
                return calls, len(text)
        return calls, at


#: Read from top to bottom; the first whose marks are all in the chat template.
FORMATS = (
    ToolFormat("mistral with names", ("[TOOL_CALLS]", "[ARGS]"), "[TOOL_CALLS]", named="[ARGS]"),
    ToolFormat("mistral", ("[TOOL_CALLS]",), "[TOOL_CALLS]", before="[", after="]"),
    ToolFormat("hermes", ("<tool_call>",), "<tool_call>", before="\n", after="\n", closing="</tool_call>"),
    ToolFormat("llama3", ('{"name": function name, "parameters"',), "<|python_tag|>", key="parameters", bare=True),
)
#: Marks of ways that look like one of these and are another.
_OTHERS = ("<function=", "<arg_key>", "<parameter name=")


def format_of(template: str) -> ToolFormat | None:
    """How a chat template writes tool calls; None if it does not, or in a way that is not known here."""
    if any(mark in template for mark in _OTHERS):
        return None
    return next((f for f in FORMATS if all(mark in template for mark in f.marks)), None)


def _decode(text: str, start: int) -> tuple[object, int]:
    start += len(text[start:]) - len(text[start:].lstrip())
    try:
        value, end = json.JSONDecoder(parse_constant=_no_constant).raw_decode(text, start)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value, end


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _checked(value: object, key: str, text: str) -> ToolCall | InvalidToolCall:
    if not isinstance(value, dict):
        return InvalidToolCall(text, f"a call is a JSON object, not {type(value).__name__}")
    name, arguments = value.get("name"), value.get(key)
    if not isinstance(name, str) or not name:
        return InvalidToolCall(text, "the call has no name")
    if not isinstance(arguments, dict):
        return InvalidToolCall(text, f"{key!r} must be a JSON object, not {type(arguments).__name__}", name)
    given = value.get("id")
    return ToolCall(name, arguments, given) if isinstance(given, str) and given else ToolCall(name, arguments)


def as_tool_call(value: object) -> ToolCall:
    """A call of an earlier turn: a ToolCall, ``{"name", "arguments", "id"}``, or the form of OpenAI and transformers.

    Raises:
        ValueError: none of these.
    """
    if isinstance(value, ToolCall):
        return value
    if isinstance(value, Mapping):
        function = value.get("function", value)
        arguments = function.get("arguments") if isinstance(function, Mapping) else None
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
        if isinstance(arguments, Mapping) and isinstance(function.get("name"), str):
            given = value.get("id")
            return ToolCall(function["name"], arguments, given) if given else ToolCall(function["name"], arguments)
    raise ValueError(f"a tool call is {{'name': str, 'arguments': dict, 'id': str}}, not {str(value)[:80]!r}")


def tool_name(tool: Tool) -> str:
    """The name of a tool in OpenAI's form.

    Raises:
        ValueError: another form.
    """
    function = tool.get("function") if isinstance(tool, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not re.fullmatch(TOOL_NAME, name):
        raise ValueError(
            'a tool is {"type": "function", "function": {"name": ..., "description": ..., "parameters": schema}}, its name '
            f"made of letters, digits, '_', '.', ':' and '-', not {str(tool)[:80]!r}"
        )
    return name


def choose(tools: Sequence[Tool], choice: str) -> list[Tool]:
    """The tools of which one must be called; empty where none must.

    Raises:
        ValueError: a choice that is no name of these.
    """
    if choice in ("auto", "none"):
        return []
    chosen = [t for t in tools if choice in ("any", "required", tool_name(t))]
    if not chosen:
        names = ", ".join(tool_name(t) for t in tools) or "none"
        raise ValueError(f"tool_choice={choice!r}: use 'auto', 'any', 'none' or the name of a tool ({names})")
    return chosen
