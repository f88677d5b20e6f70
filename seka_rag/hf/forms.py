"""What form an answer has: plain text, text with tool calls, or JSON of a schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import BaseModel

from seka_rag.errors import SettingError, UnsupportedModelError
from seka_rag.hf.control import special_ids
from seka_rag.hf.grammar import Vocabulary, call_grammar, json_grammar
from seka_rag.hf.types import Tokenizer
from seka_rag.text.plain import JsonObject
from seka_rag.text.thoughts import CLOSE, OPEN, split_thoughts, visible_answer
from seka_rag.text.toolcalls import ReadText, Tool, ToolFormat, choose, format_of, tool_name


@dataclass(frozen=True)
class AnswerForm:
    """How an answer's tokens become text, what may be in it, and what is read out of it.

    Attributes:
        decode: ids -> text.
        grammar: what the text is held to, if anything.
        calls: how tool calls are written in it, if there may be any.
        thinking: whether thoughts may come before it: "no", "may", or "opened" where the prompt has begun them.
    """

    decode: Callable[[Sequence[int]], str]
    grammar: str | None = None
    calls: ToolFormat | None = None
    thinking: Literal["no", "may", "opened"] = "no"

    def visible(self, text: str) -> str:
        """What can be shown of an unfinished text."""
        answer = text if self.thinking == "no" else visible_answer(text, opened=self.thinking == "opened")
        return answer if self.calls is None else self.calls.visible(answer)

    def read(self, text: str) -> ReadText:
        """What the text says, calls and thoughts."""
        if self.thinking != "no":
            thoughts, answer = split_thoughts(text, opened=self.thinking == "opened")
            return replace(replace(self, thinking="no").read(answer), thoughts=thoughts)
        return ReadText(text) if self.calls is None else self.calls.read(text)


def answer_form(
    tokenizer: Tokenizer,
    vocabulary: Callable[[], Vocabulary],
    *,
    tools: Sequence[Tool] = (),
    tool_choice: str = "auto",
    strict: bool = False,
    json_schema: object = None,
    prompts: Sequence[Sequence[int]] = (),
) -> AnswerForm:
    """The form that a call asks for.

    Args:
        vocabulary: asked only for what needs a grammar.
        prompts: tokens of the prompts, which may have begun the model's thoughts.

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
        return _free(tokenizer, None, prompts)
    form = tool_format(tokenizer)
    if not forced and not strict:
        return _free(tokenizer, form, prompts)
    words = vocabulary()
    return AnswerForm(words.decode, call_grammar(form, forced or tools, words, free=not forced), form)


def _free(tokenizer: Tokenizer, form: ToolFormat | None, prompts: Sequence[Sequence[int]]) -> AnswerForm:
    """Text that nothing holds to a form, with calls in it or without, after thoughts if the model knows such."""
    begun, ended = thought_marks(tokenizer) or (None, None)
    shown = {begun, ended} if form is None else {begun, ended, tokenizer.convert_tokens_to_ids(form.marker)}
    hidden = special_ids(tokenizer) - shown
    if begun is None:
        thinking: Literal["no", "may", "opened"] = "no"
    else:
        thinking = "opened" if prompts and all(begun in ids[-_END:] for ids in prompts) else "may"
    return AnswerForm(lambda ids: tokenizer.decode([i for i in ids if i not in hidden]), None, form, thinking)


#: Tokens at the end of a prompt among which a mark that has begun thoughts is looked for; white space follows it.
_END = 3


def thought_marks(tokenizer: Tokenizer) -> tuple[int, int] | None:
    """The tokens between which the model thinks, if it has such."""
    ids = [tokenizer.convert_tokens_to_ids(mark) for mark in (OPEN, CLOSE)]
    known = [tokenizer.convert_ids_to_tokens(i) if i is not None else None for i in ids]
    return (ids[0], ids[1]) if known == [OPEN, CLOSE] else None


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
