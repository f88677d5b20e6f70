"""Chat templates with highlights kept: messages in, one prompt out, every span where its text went.

Contents, tools, calls and their results are text that somebody else wrote: none of it can become a control token.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from seka_rag.errors import MissingExtraError, ProvenanceError, TokenizationError
from seka_rag.hf.roles import simpler
from seka_rag.hf.tokens import TokenizedPrompt, spelled_control, tokenize
from seka_rag.hf.types import Tokenizer
from seka_rag.text.plain import JsonObject
from seka_rag.text.prompt import Prompt
from seka_rag.text.provenance import Placement, locate_values
from seka_rag.text.spans import Span
from seka_rag.text.toolcalls import Tool, as_tool_call, tool_name

#: ``{"role": ..., "content": ...}``, and what else a template reads.
Message: TypeAlias = Mapping[str, Any]
#: Words of JSON schema and of the form of a tool; templates look for some of these. Everything else may be anything.
_WORDS = frozenset(
    "type function name description parameters arguments properties required items enum const default title format "
    "anyOf allOf oneOf additionalProperties $defs $ref minimum maximum return strict "
    "object string number integer boolean array null".split()
)


@dataclass(frozen=True)
class RenderedChat:
    """A conversation as one prompt, the ranges of it that the template itself wrote, and warnings for the report."""

    prompt: Prompt
    template: tuple[tuple[int, int], ...]
    warnings: tuple[str, ...] = ()

    def tokenize(self, tokenizer: Tokenizer) -> TokenizedPrompt:
        """As tokens, of which only those that the template itself wrote may control the model."""
        tokens = tokenize(tokenizer, self.prompt, trusted=self.template, add_special_tokens=False)
        return replace(tokens, warnings=self.warnings)


def render_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    tools: Sequence[Tool] | None = None,
    add_generation_prompt: bool = True,
    **options: object,
) -> RenderedChat:
    """Apply the model's chat template to messages whose ``content`` is a str or a Prompt.

    Where it takes no system message, or wants roles to alternate, the conversation is put into such a form (``simpler``).

    Args:
        tokenizer: has a ``chat_template``.
        messages: ``{"role": ..., "content": ...}``; other keys are passed on. An assistant's may have ``tool_calls``, and
            a message of role "tool" the ``tool_call_id`` that it answers.
        tools: what the model may call, in the form of OpenAI: ``{"type": "function", "function": {...}}``.
        options: further arguments of ``apply_chat_template``.

    Raises:
        MissingExtraError: jinja2, in which chat templates are written, is not installed.
        TokenizationError: the tokenizer has no chat template, or its template refuses these messages or leaves tools out.
        ProvenanceError: the template changes a highlighted message, so its highlights cannot be followed.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise TokenizationError("this tokenizer has no chat template; give one Prompt instead of messages")
    settings = {"add_generation_prompt": add_generation_prompt, **options}
    try:
        return _rendered(tokenizer, _Conversation.of(messages, tools), settings)
    except TokenizationError:
        for others, told in simpler(messages):
            try:
                return replace(_rendered(tokenizer, _Conversation.of(others, tools), settings), warnings=told)
            except TokenizationError:
                continue
        raise


def _rendered(tokenizer: Tokenizer, chat: _Conversation, options: Mapping[str, object]) -> RenderedChat:
    def render(values: Mapping[str, str]) -> str:
        try:
            return tokenizer.apply_chat_template(
                chat.filled(values),
                tools=chat.filled_tools(values),
                tokenize=False,
                **options,
            )
        except ImportError as error:
            raise MissingExtraError("jinja2", "plots") from error
        except Exception as error:  # jinja's own errors and whatever a template raises
            raise TokenizationError(f"the chat template refuses these messages: {error}") from error

    settings = [value for key, value in options.items() if key != "chat_template"]
    text, placements = _follow(render, chat, tokenizer, settings)
    chat.check(text, placements)
    spans: list[Span] = []
    template: list[tuple[int, int]] = []
    last = 0
    for placement in placements:
        content = chat.contents.get(placement.name)
        if isinstance(content, Prompt):
            spans += placement.place(content.spans)
        template.append((last, placement.start))
        last = placement.end
    template.append((last, len(text)))
    return RenderedChat(Prompt(text, tuple(spans)), tuple(template))


@dataclass(frozen=True)
class _Conversation:
    """Messages and tools, and every text in them that a template places.

    Contents are known by their number. Other texts (names, descriptions, arguments) are known by themselves, each once,
    so that a template which compares them still finds them equal.
    """

    messages: list[dict[str, Any]]
    contents: dict[str, str | Prompt]
    tools: list[Tool]

    @classmethod
    def of(cls, messages: Sequence[Message], tools: Sequence[Tool] | None) -> _Conversation:
        odd = (
            [m for m in messages if not isinstance(m, Mapping)]
            if not isinstance(messages, str | Prompt)
            else [messages]
        )
        if odd:
            raise TokenizationError(
                f"a conversation is a list of {{'role': ..., 'content': ...}}; this is none: {odd[0]!r}"
            )
        try:
            for tool in tools or ():
                tool_name(tool)
            plain = [_plain(m) for m in messages]
        except ValueError as error:
            raise TokenizationError(str(error)) from error
        contents = {str(i): m["content"] for i, m in enumerate(messages) if isinstance(m.get("content"), str | Prompt)}
        return cls(plain, contents, list(tools or ()))

    def texts(self) -> list[dict[str, str]]:
        """What can be followed through the template, the most first.

        Some templates cut thoughts out of the model's own turns, and some rewrite tools.
        """
        contents = {i: str(c) for i, c in self.contents.items() if str(c).strip()}
        others = {i: t for i, t in contents.items() if self.messages[int(i)].get("role") != "assistant"}
        parts = [
            self.tools,
            *([c["function"] for c in m.get("tool_calls") or ()] + [m.get("name")] for m in self.messages),
        ]
        words = {f"t:{t}": t for t in _strings(parts) if t.strip()}
        steps = [contents | words, others | words, contents, others]
        return [step for i, step in enumerate(steps) if step not in steps[:i]]

    def unfollowed(self, step: Mapping[str, str]) -> Iterator[str]:
        """Every other text that the template may write: roles, parts of contents, other keys, what the step leaves out."""
        for i, message in enumerate(self.messages):
            known = {"name", "tool_calls", "tool_call_id"} | ({"content"} if str(i) in self.contents else set())
            yield from _strings([value for key, value in message.items() if key not in known])
        for key, text in self.texts()[0].items():
            if key in step:
                continue
            if key.isdecimal() and self.messages[int(key)].get("role") == "assistant":
                # the model's own thoughts, which its template cuts out or writes anew
                text = text.replace("<think>", "", 1).replace("</think>", "", 1)
            yield text

    def filled(self, values: Mapping[str, str]) -> list[JsonObject]:
        filled = []
        for i, message in enumerate(self.messages):
            new = dict(message)
            if "name" in new:
                new["name"] = _replaced(new["name"], values)
            if "tool_calls" in new:
                new["tool_calls"] = [{**c, "function": _replaced(c["function"], values)} for c in new["tool_calls"]]
            if str(i) in self.contents:
                new["content"] = values.get(str(i), str(self.contents[str(i)]))
            filled.append(new)
        return filled

    def filled_tools(self, values: Mapping[str, str]) -> list[Tool] | None:
        return _replaced(self.tools, values) or None

    def check(self, text: str, placements: Sequence[Placement]) -> None:
        """Nothing that matters was left out by the template.

        Raises:
            TokenizationError: tools, calls or results are missing from the text.
            ProvenanceError: a highlighted message is.
        """
        placed = {p.name for p in placements}
        calls = [call["function"]["name"] for m in self.messages for call in m.get("tool_calls") or ()]
        for what, names in (("tools", [tool_name(t) for t in self.tools]), ("tool calls", calls)):
            if missing := [name for name in names if f"t:{name}" not in placed and name not in text]:
                raise TokenizationError(
                    f"the model's chat template has no place for {what}: {', '.join(missing)} is left out"
                )
        for i, content in self.contents.items():
            if i in placed or not str(content).strip():
                continue
            if self.messages[int(i)].get("role") in ("system", "developer") and str(content).strip() not in text:
                raise TokenizationError("the model's chat template has no place for a system message")
            if self.messages[int(i)].get("role") == "tool" and str(content).strip() not in text:
                raise TokenizationError("the model's chat template has no place for the results of tools")
            if isinstance(content, Prompt) and content.spans:
                raise ProvenanceError(f"message {i} has highlights, and the model's chat template leaves it out")


def _plain(message: Message) -> dict[str, Any]:
    """A message as templates expect it: calls in the form of transformers, ids that every template takes."""
    plain = dict(message)
    if plain.get("tool_calls"):
        calls = [as_tool_call(call) for call in plain["tool_calls"]]
        plain["tool_calls"] = [
            {"id": _short(c.id), "type": "function", "function": {"name": c.name, "arguments": dict(c.arguments)}}
            for c in calls
        ]
    else:
        plain.pop("tool_calls", None)
    if plain.get("tool_call_id"):
        plain["tool_call_id"] = _short(str(plain["tool_call_id"]))
    return plain


def _short(call_id: str) -> str:
    """The id itself if it is of the one form that every template takes, else nine characters that stand for it."""
    return call_id if re.fullmatch(r"[A-Za-z0-9]{9}", call_id) else hashlib.sha256(call_id.encode()).hexdigest()[:9]


def _follow(
    render: Callable[[Mapping[str, str]], str], chat: _Conversation, tokenizer: Tokenizer, settings: Sequence[object]
) -> tuple[str, tuple[Placement, ...]]:
    """The text, and where the values of the first step that can be followed stand.

    What is then not followed counts as written by the template, so no control token may be spelled in it.
    """
    steps = chat.texts()
    for step in steps:
        try:
            text, placements = locate_values(render, step)
        except ProvenanceError:
            if step is steps[-1]:
                raise
            continue
        left = {*chat.unfollowed(step), *_strings(settings)}
        if found := spelled_control(tokenizer, left):
            raise ProvenanceError(
                f"where the chat template writes {_shown(found[0])} cannot be followed, and it spells the control token "
                f"{found[1]!r}, so it cannot be kept as plain text; take that out of it"
            )
        return text, placements
    raise AssertionError("there is always a step")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _strings(value: object) -> Iterator[str]:
    """Every text in plain data, keys as well, but for the words that templates know."""
    if isinstance(value, str):
        if value not in _WORDS:
            yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _replaced(value: object, values: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return values.get(f"t:{value}", value)
    if isinstance(value, Mapping):
        return {_replaced(k, values): _replaced(v, values) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_replaced(v, values) for v in value]
    return value
