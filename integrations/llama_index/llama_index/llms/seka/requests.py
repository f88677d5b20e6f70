"""One call, ready to run: tokens with their highlights, options, and what the report is to say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama_index.core.base.llms.types import AudioBlock, ChatMessage, DocumentBlock, ImageBlock, MessageRole, VideoBlock
from llama_index.llms.seka.errors import SekaLLMError
from llama_index.llms.seka.marks import marked_prompts
from llama_index.llms.seka.provenance import follow_messages
from llama_index.llms.seka.tools import earlier_calls, highlight_tool_outputs

from seka_rag import Highlighter, Prompt, SteeredModel, as_steering, highlighting, open_highlighting

_OPTIONS = ("stop", "max_tokens", "temperature", "top_p", "seed", "timeout", "highlight", "steering", "json_schema")
_TOOL_OPTIONS = ("tools", "tool_choice", "strict")
_ROLES = {
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.DEVELOPER: "system",
    MessageRole.FUNCTION: "tool",
}


@dataclass(frozen=True)
class Request:
    """What ``SteeredModel.generate`` is given, and the prompts with their highlights for the report."""

    engine: SteeredModel
    tokens: Any
    options: dict[str, Any]
    prompts: Sequence[Prompt]
    warnings: Sequence[str]


def call_options(fields: Mapping[str, Any], call: Mapping[str, Any]) -> dict[str, Any]:
    """The options of one call before those of the model's fields.

    Raises:
        SekaLLMError: an option that does not exist, or a value that it cannot have.
    """
    unknown = sorted(set(call) - {*_OPTIONS, *_TOOL_OPTIONS})
    if unknown:
        known = ", ".join((*_OPTIONS, *_TOOL_OPTIONS))
        raise SekaLLMError(f"SekaLLM has no option {', '.join(unknown)}: a call takes {known}")
    options = {**fields, **{name: value for name, value in call.items() if value is not None or name == "steering"}}
    if options["highlight"] not in ("auto", "off"):
        raise SekaLLMError(f"highlight={options['highlight']!r}: use 'auto' or 'off'")
    options["steering"] = as_steering(options["steering"])
    options["max_new_tokens"] = options.pop("max_tokens")
    if not options["temperature"]:  # 0 is greedy, whatever else would make it sample
        options.pop("top_p", None)
    return options


def chat_request(
    engine: SteeredModel,
    messages: Sequence[ChatMessage],
    options: dict[str, Any],
    to_prompt: Callable[[Sequence[ChatMessage]], str],
    tool_highlighter: Highlighter,
) -> Request:
    """A conversation through the model's chat template or, where it has none, through ``to_prompt``.

    Args:
        tool_highlighter: chooses in what tools returned.
    """
    for i, message in enumerate(messages):
        for block in message.blocks:
            if isinstance(block, ImageBlock | AudioBlock | VideoBlock | DocumentBlock):
                raise SekaLLMError(f"message {i} holds {type(block).__name__}: SekaLLM reads text only")
    prompts, warnings = marked_prompts(messages)
    prompts, told = highlight_tool_outputs(messages, prompts, tool_highlighter)
    warnings += told
    said = [i for i, m in enumerate(messages) if _role(m) in ("user", "system")]
    prompts, warnings, options = _wanted(prompts, warnings, options, said)
    if engine.tokenizer.chat_template:
        tools = options.get("tools") if options.get("tool_choice") != "none" else None
        turns = [_turn(m, prompt) for m, prompt in zip(messages, prompts, strict=True)]
        with highlighting(()):  # what an open block marks is among the highlights already
            tokens = engine.tokenize_chat(turns, **({"tools": tools} if tools else {}))
    elif options.get("tools"):
        raise SekaLLMError(f"{engine.name} has no chat template, so it cannot be given tools")
    else:
        with highlighting(()):
            tokens = engine.tokenize(follow_messages(messages, prompts, to_prompt))
    return Request(engine, tokens, options, prompts, warnings)


def _role(message: ChatMessage) -> str:
    return _ROLES.get(message.role, message.role.value)


def _turn(message: ChatMessage, prompt: Prompt) -> dict[str, Any]:
    """A message as chat templates take it."""
    turn: dict[str, Any] = {"role": _role(message), "content": prompt}
    if calls := earlier_calls(message):
        turn["tool_calls"] = calls
    if turn["role"] == "tool" and message.additional_kwargs.get("tool_call_id"):
        turn["tool_call_id"] = message.additional_kwargs["tool_call_id"]
    return turn


def completion_request(
    engine: SteeredModel, prompt: Prompt, warnings: Sequence[str], options: dict[str, Any], *, as_message: bool
) -> Request:
    """A prompt to continue or, ``as_message``, to answer as the user's message."""
    prompts, warnings, options = _wanted([prompt], warnings, options, [0])
    with highlighting(()):
        if as_message and engine.tokenizer.chat_template:
            tokens = engine.tokenize_chat([{"role": "user", "content": prompts[0]}])
        else:
            tokens = engine.tokenize(prompts[0])
    return Request(engine, tokens, options, prompts, warnings)


def _wanted(
    prompts: Sequence[Prompt], warnings: Sequence[str], options: dict[str, Any], said: Sequence[int]
) -> tuple[list[Prompt], list[str], dict[str, Any]]:
    """The prompts with the highlights that this call wants, what the report is to say, and options of ``generate``.

    Prompts without any get those of an open ``with seka_rag.highlighting(...)``, in the prompts ``said`` by the user and
    the system.
    """
    off = options["highlight"] == "off" or options["steering"] is None
    wanted, told, scope = [p.plain() if off else p for p in prompts], list(warnings), open_highlighting()
    if scope is not None and off:
        told.append("the open highlighting(...) marks nothing here: highlight is 'off' or steering None")
    elif scope is not None and not any(p.spans for p in wanted):
        for i, spans in zip(said, scope.find([wanted[i].text for i in said]), strict=True):
            wanted[i] = Prompt(wanted[i].text, spans)
    return wanted, told, {name: value for name, value in options.items() if name != "highlight"}
