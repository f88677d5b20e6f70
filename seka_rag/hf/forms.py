"""What form an answer has: plain text, text with tool calls, or JSON of a schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from seka_rag.errors import SettingError, UnsupportedModelError
from seka_rag.hf.control import special_ids
from seka_rag.hf.grammar import Vocabulary, call_grammar, json_grammar
from seka_rag.hf.types import Tokenizer
from seka_rag.text.plain import JsonObject
from seka_rag.text.toolcalls import ReadText, Tool, ToolFormat, choose, format_of, tool_name


@dataclass(frozen=True)
class AnswerForm:
    """How an answer's tokens become text, what may be in it, and what is read out of it.

    Attributes:
        decode: ids -> text.
        grammar: what the text is held to, if anything.
        calls: how tool calls are written in it, if there may be any.
    """

    decode: Callable[[Sequence[int]], str]
    grammar: str | None = None
    calls: ToolFormat | None = None

    def visible(self, text: str) -> str:
        """What can be shown of an unfinished text."""
        return text if self.calls is None else self.calls.visible(text)

    def read(self, text: str) -> ReadText:
        return ReadText(text) if self.calls is None else self.calls.read(text)


def answer_form(
    tokenizer: Tokenizer,
    vocabulary: Callable[[], Vocabulary],
    *,
    tools: Sequence[Tool] = (),
    tool_choice: str = "auto",
    strict: bool = False,
    json_schema: object = None,
) -> AnswerForm:
    """The form that a call asks for. ``vocabulary`` is asked only for what needs a grammar.

    Raises:
        SettingError: options that contradict each other, or a choice that is no tool.
        UnsupportedModelError: tools, and a chat template whose way of calling them is not known.
    """
    try:
        forced = choose(tools, tool_choice)
        names = [tool_name(t) for t in tools]
    except ValueError as error:
        raise SettingError(str(error)) from error
    calling = bool(names) and tool_choice != "none"
    if json_schema is not None:
        if forced:
            raise SettingError(f"json_schema and tool_choice={tool_choice!r} contradict each other: give one of them")
        schema = as_schema(json_schema)
        if not calling:
            return AnswerForm(vocabulary().decode, json_grammar(schema))
        form = tool_format(tokenizer)
        if form.bare:
            raise SettingError("this model's tool calls look like JSON answers: give tools or json_schema, not both")
        words = vocabulary()
        return AnswerForm(words.decode, call_grammar(form, tools, words, otherwise=schema), form)
    if not calling:
        return AnswerForm(lambda ids: tokenizer.decode(ids, skip_special_tokens=True))
    form = tool_format(tokenizer)
    if not forced and not strict:
        hidden = special_ids(tokenizer) - {tokenizer.convert_tokens_to_ids(form.marker)}
        return AnswerForm(lambda ids: tokenizer.decode([i for i in ids if i not in hidden]), None, form)
    words = vocabulary()
    return AnswerForm(words.decode, call_grammar(form, forced or tools, words, free=not forced), form)


def tool_format(tokenizer: Tokenizer) -> ToolFormat:
    """How the model's chat template writes tool calls.

    Raises:
        UnsupportedModelError: it writes none, or in a way that is not known here.
    """
    form = _format(tokenizer)
    if form is None:
        raise UnsupportedModelError(
            "this model's chat template writes no tool calls in a form known here (Hermes and Qwen, Llama 3, Mistral), so "
            "its calls cannot be read; leave tools out, or use a model with one of these"
        )
    return form


def knows_tools(tokenizer: Tokenizer) -> bool:
    return _format(tokenizer) is not None


def _format(tokenizer: Tokenizer) -> ToolFormat | None:
    return format_of(tokenizer.get_chat_template(None, [{}])) if tokenizer.chat_template else None


def as_schema(value: object) -> JsonObject:
    """A JSON schema from one, from a pydantic model, or from True: any JSON object.

    Raises:
        SettingError: something else.
    """
    if value is True:
        return {"type": "object"}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, type) and issubclass(value, BaseModel):
        return value.model_json_schema()
    raise SettingError(f"json_schema takes a JSON schema (dict), a pydantic model or True, not {value!r}")
