"""Instructions and the question as highlights in messages that no template of LlamaIndex made."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.llms.seka.flow import current_flow
from llama_index.llms.seka.marks import mark_message

from seka_rag.frameworks import INSTRUCTIONS, KEY, QUESTION, HighlightSettings, said

#: How ReActAgent begins a message of the user's role that holds what a tool returned.
_OBSERVATION = "Observation:"
SYSTEM_ROLES = frozenset({MessageRole.SYSTEM, MessageRole.DEVELOPER})
RETRIEVED = (
    "retrieved text stands in this, so it is not highlighted as instructions or question: fill a template, with that text as "
    "one of the context_variables"
)


def last_of_user(messages: Sequence[ChatMessage]) -> int | None:
    """The index of the user's last message, if the user wrote it."""
    last = max((i for i, m in enumerate(messages) if m.role == MessageRole.USER), default=None)
    return None if last is None or (messages[last].content or "").startswith(_OBSERVATION) else last


def mark_said(messages: Sequence[ChatMessage], settings: HighlightSettings) -> list[ChatMessage]:
    """Messages of a call with the system's messages and the last of the user's highlighted, where asked.

    A message that carries marks already, even empty ones, was filled from a template or marked by hand: it stays. One in
    which retrieved text stands is not marked as a whole.
    """
    last, flow = last_of_user(messages), current_flow()
    marked = list(messages)
    for i, message in enumerate(messages):
        system = settings.has("instructions") and message.role in SYSTEM_ROLES
        user = settings.has("question") and i == last
        if not (system or user) or KEY in message.additional_kwargs:
            continue
        if flow.holds(message.content or ""):
            marked[i] = mark_message(message, (), warnings=(RETRIEVED,))
        else:
            marked[i] = mark_message(message, said(message.content or "", INSTRUCTIONS if system else QUESTION))
    return marked
