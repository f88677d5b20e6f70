"""How spans travel from a template to the model: beside the text, never in it.

On a chat message they are ``additional_kwargs["seka"]``, tied to one exact content by its digest. A completion prompt
is a bare str, so there they wait in a context variable, for the one call that LlamaIndex makes with that prompt next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import reduce

from llama_index.core.base.llms.types import ChatMessage, MessageRole

from seka_rag import Prompt, Span
from seka_rag.frameworks import KEY, Citable, Highlights, Marks, is_report, read_marks, write_marks

#: What a model or a tool said may not highlight; neither is written by the user or by a template.
_UNTRUSTED = frozenset(
    {MessageRole.ASSISTANT, MessageRole.CHATBOT, MessageRole.MODEL, MessageRole.TOOL, MessageRole.FUNCTION}
)


def mark_message(
    message: ChatMessage,
    spans: Iterable[Span],
    *,
    warnings: Sequence[str] = (),
    unmarked: str | None = None,
    citable: Citable | None = None,
) -> ChatMessage:
    """A copy of the message whose content is highlighted at the spans.

    Args:
        spans: characters of ``message.content``.
        warnings: what the report of the answer should say about them.
        unmarked: why nothing is marked in the retrieved text that the message holds.
        citable: documents in it that the answer may cite.

    Raises:
        SpanError: a span beyond the content.
    """
    marks = write_marks(message.content or "", spans, warnings=warnings, unmarked=unmarked, citable=citable)
    return message.model_copy(update={"additional_kwargs": {**message.additional_kwargs, KEY: marks}})


def marks_of(message: ChatMessage, number: int = 0) -> Marks:
    """The highlights of one message, and what it holds that may be cited.

    Raises:
        SpanError: marks that are not of the form that ``mark_message`` writes, or a span beyond the content.
    """
    value = message.additional_kwargs.get(KEY)
    if value is None or is_report(value):
        return Marks()
    marks = read_marks(value, message.content or "", number)
    if not marks.spans or message.role not in _UNTRUSTED:
        return marks
    why = f"{message.role.value} messages are not trusted; the highlights were dropped"
    return Marks((), (*marks.warnings, why), marks.unmarked)


def marked(messages: Sequence[ChatMessage]) -> Highlights:
    """The highlights that messages carry.

    Raises:
        SpanError: as ``marks_of``.
    """
    own = [marks_of(message, i) for i, message in enumerate(messages)]
    return Highlights(
        tuple((i, span) for i, marks in enumerate(own) for span in marks.spans),
        tuple(f"message {i}: {warning}" for i, marks in enumerate(own) for warning in marks.warnings),
        next((marks.unmarked for marks in own if marks.unmarked is not None), None),
        reduce(Citable.join, (marks.citable for marks in own), Citable()),
    )


@dataclass(frozen=True)
class Announced:
    """A completion prompt with what a template's filling says of it."""

    prompt: Prompt
    warnings: tuple[str, ...] = ()
    unmarked: str | None = None
    citable: Citable = field(default_factory=Citable)

    @property
    def highlights(self) -> Highlights:
        return replace(Highlights.of_prompts([self.prompt], self.warnings, self.unmarked), citable=self.citable)


_announced: ContextVar[tuple[object, Announced] | None] = ContextVar("seka_announced_prompt", default=None)


def announce(owner: object, announced: Announced) -> None:
    """Keep the highlights of a completion prompt for the call that follows in this task or thread.

    Tasks and threads have contexts of their own, so no call sees what another one announced.
    """
    _announced.set((owner, announced))


def take_announced(owner: object, text: str) -> Announced:
    """The prompt with the highlights announced for exactly this text by the same owner, which are then used up."""
    kept = _announced.get()
    _announced.set(None)
    if kept is None or kept[0] is not owner or kept[1].prompt.text != text:
        return Announced(Prompt(text))
    return kept[1]
