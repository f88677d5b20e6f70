"""How spans travel from a template to the model: beside the text, never in it.

On a chat message they are ``additional_kwargs["seka"]``, tied to one exact content by its digest. A completion prompt
is a bare str, so there they wait in a context variable, for the one call that LlamaIndex makes with that prompt next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.llms.seka.errors import SekaLLMError

from seka_rag import Prompt, Span

KEY = "seka"
_VERSION = 1
#: What a model or a tool said may not highlight; neither is written by the user or by a template.
_UNTRUSTED = frozenset(
    {MessageRole.ASSISTANT, MessageRole.CHATBOT, MessageRole.MODEL, MessageRole.TOOL, MessageRole.FUNCTION}
)


def mark_message(message: ChatMessage, spans: Iterable[Span], *, warnings: Sequence[str] = ()) -> ChatMessage:
    """A copy of the message whose content is highlighted at the spans.

    Args:
        spans: characters of ``message.content``.
        warnings: what the report of the answer should say about them.

    Raises:
        SpanError: a span beyond the content.
    """
    marks = write_marks(message.content or "", spans)
    if warnings:
        marks["warnings"] = list(warnings)
    return message.model_copy(update={"additional_kwargs": {**message.additional_kwargs, KEY: marks}})


def write_marks(text: str, spans: Iterable[Span]) -> dict[str, Any]:
    """Spans as plain data, tied to their text.

    Raises:
        SpanError: a span beyond the text.
    """
    own = [[s.start, s.end, s.weight, s.source] for s in Prompt(text, tuple(spans)).spans]
    return {"version": _VERSION, "digest": digest(text), "spans": own}


def read_marks(marks: Mapping[str, Any], text: str) -> tuple[Prompt, str | None]:
    """The text with the spans that ``write_marks`` wrote for it, or without and why.

    Raises:
        SekaLLMError: marks of another form.
        SpanError: a span beyond the text.
    """
    if marks.get("version") != _VERSION:
        return Prompt(text), f"highlights of version {marks.get('version')!r} are unknown"
    if marks.get("digest") != digest(text):
        return Prompt(text), "its text changed after it was highlighted"
    try:
        spans = tuple(Span(int(s), int(e), float(weight), source) for s, e, weight, source in marks["spans"])
    except (TypeError, ValueError) as error:
        raise SekaLLMError(f'additional_kwargs["{KEY}"]["spans"]: {error}; let mark_message write it') from error
    return Prompt(text, spans), None


def marked_prompts(messages: Sequence[ChatMessage]) -> tuple[list[Prompt], list[str]]:
    """The content of every message with its highlights, and warnings.

    Raises:
        SekaLLMError: marks that are not of the form that ``mark_message`` writes.
        SpanError: a span beyond its content.
    """
    prompts, warnings = [], []
    for i, message in enumerate(messages):
        prompt, found = _marked(message)
        prompts.append(prompt)
        warnings += [f"message {i}: {warning}" for warning in found]
    return prompts, warnings


def _marked(message: ChatMessage) -> tuple[Prompt, list[str]]:
    text, marks = message.content or "", message.additional_kwargs.get(KEY)
    if not isinstance(marks, dict) or "spans" not in marks:  # earlier answers carry their report under the same key
        if marks is None or (isinstance(marks, dict) and "highlights" in marks):
            return Prompt(text), []
        raise SekaLLMError(f'additional_kwargs["{KEY}"] is not what mark_message writes; let mark_message write it')
    warnings = [str(w) for w in marks.get("warnings", ())]
    if not marks["spans"]:
        return Prompt(text), warnings
    if message.role in _UNTRUSTED:
        return Prompt(text), [*warnings, f"{message.role.value} messages are not trusted; the highlights were dropped"]
    prompt, refused = read_marks(marks, text)
    return prompt, warnings if refused is None else [*warnings, f"{refused}; the highlights were dropped"]


def digest(text: str) -> str:
    """What ties spans to the text that they were made for."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class _Announced:
    owner: object
    prompt: Prompt
    warnings: tuple[str, ...]


_announced: ContextVar[_Announced | None] = ContextVar("seka_announced_prompt", default=None)


def announce(owner: object, prompt: Prompt, warnings: Sequence[str]) -> None:
    """Keep the highlights of a completion prompt for the call that follows in this task or thread.

    Tasks and threads have contexts of their own, so no call sees what another one announced.
    """
    _announced.set(_Announced(owner, prompt, tuple(warnings)))


def take_announced(owner: object, text: str) -> tuple[Prompt, list[str]]:
    """The prompt with the highlights announced for exactly this text by the same owner, which are then used up."""
    announced = _announced.get()
    _announced.set(None)
    if announced is None or announced.owner is not owner or announced.prompt.text != text:
        return Prompt(text), []
    return announced.prompt, list(announced.warnings)
