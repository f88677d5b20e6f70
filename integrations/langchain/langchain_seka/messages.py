"""LangChain messages as the model's chat template takes them: a role and text."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from seka_rag import Generation, SekaError
from seka_rag.frameworks import Highlights

_ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool", "function": "tool"}
_CHAT_ROLES = frozenset({"user", "assistant", "system", "developer", "tool"})


class MessageError(SekaError, ValueError):
    """A message that this model cannot be given."""


def text_of(message: BaseMessage) -> str:
    """The text of a message; its text blocks joined without anything between.

    Raises:
        MessageError: a block that is not text (an image, audio, a file).
    """
    content = message.content
    if isinstance(content, str):
        return content
    if isinstance(message, AIMessage):  # earlier answers may hold thoughts, and calls that are told in another field
        return str(message.text)
    return "".join(_block_text(block) for block in content)


def _block_text(block: object) -> str:
    if isinstance(block, str):
        return block
    if isinstance(block, dict) and block.get("type") == "text" and isinstance(block.get("text"), str):
        return block["text"]
    kind = block.get("type") if isinstance(block, dict) else type(block).__name__
    raise MessageError(f"content block {kind!r}: this model reads text only; leave such blocks out")


def role_of(message: BaseMessage) -> str:
    """The role of a message in the chat template.

    Raises:
        MessageError: a role of your own. Roles are written by the template itself, so any text is not allowed there.
    """
    role = getattr(message, "role", None) if message.type in ("chat", "ChatMessageChunk") else None
    role = _ROLES.get(message.type.removesuffix("MessageChunk").lower()) if role is None else _ROLES.get(role, role)
    if role not in _CHAT_ROLES:
        raise MessageError(f"a message of role {role!r}: use one of {', '.join(sorted(_CHAT_ROLES))}")
    return role


def to_chat(messages: Sequence[BaseMessage], highlights: Highlights) -> list[dict[str, object]]:
    """Messages with their highlights, as ``SteeredModel`` takes them."""
    prompts = highlights.prompts(map(text_of, messages))
    return [{"role": role_of(m), "content": prompt, **_calling(m)} for m, prompt in zip(messages, prompts, strict=True)]


def thoughts(generation: Generation) -> dict[str, str]:
    """What the model thought before it answered, where LangChain looks for it: a content block "reasoning"."""
    return {} if generation.thoughts is None else {"reasoning_content": generation.thoughts}


def _calling(message: BaseMessage) -> dict[str, object]:
    """What a message says of tools: the calls of the model, or which call it answers."""
    if isinstance(message, AIMessage) and message.tool_calls:
        return {"tool_calls": [{"name": c["name"], "arguments": c["args"], "id": c["id"]} for c in message.tool_calls]}
    if isinstance(message, ToolMessage):
        return {"tool_call_id": message.tool_call_id, **({"name": message.name} if message.name else {})}
    return {}


def artifact_documents(message: ToolMessage) -> list[Document]:
    """The documents in a tool message's artifact, also those that a checkpointer turned into dicts."""
    artifact = message.artifact
    items = artifact if isinstance(artifact, list | tuple) else [artifact]
    return [document for item in items if (document := _document(item)) is not None]


def _document(item: object) -> Document | None:
    if hasattr(item, "page_content"):
        return item
    if isinstance(item, dict):
        fields = item["kwargs"] if item.get("lc") and isinstance(item.get("kwargs"), dict) else item
        if isinstance(fields.get("page_content"), str):
            metadata = fields.get("metadata")
            return Document(
                page_content=fields["page_content"],
                metadata=metadata if isinstance(metadata, dict) else {},
                id=fields.get("id") if isinstance(fields.get("id"), str) else None,
            )
    return None
