"""One call, ready to run, from messages or a prompt of LlamaIndex."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from llama_index.core.base.llms.types import AudioBlock, ChatMessage, DocumentBlock, ImageBlock, MessageRole, VideoBlock
from llama_index.llms.seka.errors import SekaLLMError
from llama_index.llms.seka.flow import shared_answers
from llama_index.llms.seka.instructions import mark_said
from llama_index.llms.seka.marks import Announced, marked
from llama_index.llms.seka.provenance import follow_messages
from llama_index.llms.seka.reports import listeners
from llama_index.llms.seka.tools import earlier_calls, tool_highlights

from seka_rag import Prompt
from seka_rag.frameworks import Engine, Highlights, HighlightSettings, Request, highlights_off

_ROLES = {
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.DEVELOPER: "system",
    MessageRole.FUNCTION: "tool",
}


@dataclass(frozen=True)
class SekaRequest(Request):
    """A call of the model.

    Attributes:
        prompts: the text of each message, or the one prompt, with its highlights.
        listeners: who is to get the report; a stream may be read where nobody knows them any more.
        answers: where the answer is remembered, which is no evidence for others; None: where it is read.
    """

    prompts: tuple[Prompt, ...] = ()
    listeners: tuple[list[dict[str, object]], ...] = field(default_factory=listeners)
    answers: deque[str] | None = field(default_factory=shared_answers)


def chat_request(
    engine: Engine,
    messages: Sequence[ChatMessage],
    settings: HighlightSettings,
    options: Mapping[str, object],
    to_prompt: Callable[[Sequence[ChatMessage]], str],
) -> SekaRequest:
    """A conversation through the model's chat template or, where it has none, through ``to_prompt``.

    Args:
        settings: what to highlight, and whether to cite.
    """
    for i, message in enumerate(messages):
        for block in message.blocks:
            if isinstance(block, ImageBlock | AudioBlock | VideoBlock | DocumentBlock):
                raise SekaLLMError(f"message {i} holds {type(block).__name__}: SekaLLM reads text only")
    texts = [m.content or "" for m in messages]
    highlights = highlights_off()
    if settings.kinds is not None:
        said = {i: texts[i] for i, m in enumerate(messages) if _role(m) in ("user", "system")}
        highlights = _settled(_found(messages, settings), said, settings)
    citable = marked(messages).citable if settings.citations else None
    highlights = highlights.citing(citable, settings.citations)
    prompts = tuple(highlights.prompts(texts))
    if engine.can_chat:
        turns = [_turn(m, prompt) for m, prompt in zip(messages, prompts, strict=True)]
        return SekaRequest(engine, turns, options, highlights, prompts)
    if options.get("tools"):
        raise SekaLLMError(f"{engine.name} has no chat template, so it cannot be given tools")
    return SekaRequest(engine, follow_messages(messages, prompts, to_prompt), options, highlights, prompts)


def completion_request(
    engine: Engine,
    announced: Announced,
    settings: HighlightSettings,
    options: Mapping[str, object],
    *,
    as_message: bool,
) -> SekaRequest:
    """A prompt to continue or, ``as_message``, to answer as the user's message."""
    text, highlights = announced.prompt.text, highlights_off()
    if settings.kinds is not None:
        highlights = _settled(announced.highlights, {0: text}, settings)
    highlights = highlights.citing(announced.citable, settings.citations)
    (prompt,) = highlights.prompts([text])
    asked = [{"role": "user", "content": prompt}] if as_message and engine.can_chat else prompt
    return SekaRequest(engine, asked, options, highlights, (prompt,))


def _found(messages: Sequence[ChatMessage], settings: HighlightSettings) -> Highlights:
    """What the messages carry, what trusted tools returned, and what is said, if that is asked for."""
    own = marked(mark_said(messages, settings))
    tools = tool_highlights(messages, settings) if settings.has("context") else Highlights()
    return Highlights((*own.spans, *tools.spans), (*own.warnings, *tools.warnings), own.unmarked or tools.unmarked)


def _settled(highlights: Highlights, said: Mapping[int, str], settings: HighlightSettings) -> Highlights:
    return settings.settle(highlights.in_open_block(said))


def _role(message: ChatMessage) -> str:
    return _ROLES.get(message.role, message.role.value)


def _turn(message: ChatMessage, prompt: Prompt) -> dict[str, object]:
    """A message as chat templates take it."""
    turn: dict[str, object] = {"role": _role(message), "content": prompt}
    if calls := earlier_calls(message):
        turn["tool_calls"] = calls
    if turn["role"] == "tool" and message.additional_kwargs.get("tool_call_id"):
        turn["tool_call_id"] = message.additional_kwargs["tool_call_id"]
    return turn
