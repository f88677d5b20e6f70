"""Chat templates with highlights kept: messages in, one prompt out, every span where its text went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seka_rag.errors import ProvenanceError, TokenizationError
from seka_rag.text.prompt import Prompt
from seka_rag.text.provenance import locate_values
from seka_rag.text.spans import Span

Message = Mapping[str, Any]


@dataclass(frozen=True)
class RenderedChat:
    """A conversation as one prompt, and the ranges of it that the template itself wrote."""

    prompt: Prompt
    template: tuple[tuple[int, int], ...]


def render_chat(
    tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool = True, **options: Any
) -> RenderedChat:
    """Apply the model's chat template to messages whose ``content`` is a str or a Prompt.

    Args:
        tokenizer: has a ``chat_template``.
        messages: ``{"role": ..., "content": ...}``; other keys are passed on.
        options: further arguments of ``apply_chat_template`` (``tools``, ...).

    Raises:
        TokenizationError: the tokenizer has no chat template, or its template refuses these messages.
        ProvenanceError: the template changes a highlighted message, so its highlights cannot be followed.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise TokenizationError("this tokenizer has no chat template; give one Prompt instead of messages")
    contents = {str(i): m["content"] for i, m in enumerate(messages) if isinstance(m.get("content"), str | Prompt)}
    texts = {i: str(c) for i, c in contents.items() if str(c).strip()}

    def render(values: Mapping[str, str]) -> str:
        filled = [
            {**m, "content": values.get(str(i), str(m["content"]) if str(i) in contents else m.get("content"))}
            for i, m in enumerate(messages)
        ]
        try:
            return tokenizer.apply_chat_template(
                filled, tokenize=False, add_generation_prompt=add_generation_prompt, **options
            )
        except Exception as error:  # jinja's own errors and whatever a template raises
            raise TokenizationError(f"the chat template refuses these messages: {error}") from error

    try:
        text, placements = locate_values(render, texts)
    except ProvenanceError:  # some templates cut thoughts out of the model's own turns: follow only the others
        others = {i: t for i, t in texts.items() if messages[int(i)].get("role") != "assistant"}
        text, placements = locate_values(render, others)
    spans: list[Span] = []
    template: list[tuple[int, int]] = []
    last = 0
    for placement in placements:
        content = contents[placement.name]
        if isinstance(content, Prompt):
            spans += placement.place(content.spans)
        template.append((last, placement.start))
        last = placement.end
    template.append((last, len(text)))
    return RenderedChat(Prompt(text, tuple(spans)), tuple(template))
