"""Instructions as highlights: what the system and the user say, and never what was retrieved.

Of a message that a template made, these are the template's own words and the question. A message that no template is
known for was written by the caller; it counts whole, unless a retriever ran, for then its text may be in there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set

from langchain_core.messages import BaseMessage

from langchain_seka.capture import FilledPrompt
from langchain_seka.placing import place_passages
from langchain_seka.templates import Filled, RenderedMessage, rebuild
from seka_rag import Span

SOURCE = "instructions"
Follow = Callable[[Filled, Sequence[str]], list[RenderedMessage] | None]


def instruction_spans(
    targets: Sequence[tuple[str, str] | None],
    prompts: Sequence[FilledPrompt],
    follow: Follow,
    *,
    passages: Sequence[str],
    queries: Set[str],
    retrieved: bool,
) -> list[tuple[int, Span]]:
    """Spans with the index of their message.

    Args:
        targets: type and text of each message; None for those that say nothing of the system or the user.
        prompts: the templates that may have made them.
        follow: says where variables stand in the messages of a template.
        passages, queries: what was retrieved, and for what.
        retrieved: whether a retriever ran at all.
    """
    users = [i for i, t in enumerate(targets) if t is not None and t[0] != "system"]
    wanted = {i for i, t in enumerate(targets) if t is not None and t[0] == "system"} | set(users[-1:])
    made = [m for p in prompts if (f := rebuild(p)) is not None for m in _literal(f, follow, passages, queries)]
    spans: list[tuple[int, Span]] = []
    for i in sorted(wanted):
        target = targets[i]
        own = next((ranges for message, ranges in made if (message.type, message.text) == target), None)
        if own is None and not retrieved and target is not None:
            own = [(0, len(target[1]))]
        for start, end in own or ():
            text = target[1][start:end] if target else ""
            start, end = start + len(text) - len(text.lstrip()), start + len(text.rstrip())
            if start < end and any(c.isalnum() for c in text):
                spans.append((i, Span(start, end, 1.0, SOURCE)))
    return spans


def _literal(
    filled: Filled, follow: Follow, passages: Sequence[str], queries: Set[str]
) -> list[tuple[RenderedMessage, list[tuple[int, int]]]]:
    """The messages of a template with the ranges that are its own words or the question."""
    others = [name for name in filled.template.input_variables if name not in filled.values]
    if not all(_is_messages(filled.inputs.get(name)) for name in others):
        return []
    messages = follow(filled, list(filled.values))
    asked = {
        name for name, text in filled.values.items() if text.strip() in queries and not place_passages(passages, text)
    }
    made = []
    for message in messages or ():
        ranges, last = [], 0
        for placement in sorted(message.placements, key=lambda p: p.start):
            if placement.name not in asked:
                ranges.append((last, placement.start))
                last = placement.end
        made.append((message, [*ranges, (last, len(message.text))]))
    return made


def _is_messages(value: object) -> bool:
    """What a placeholder for messages is filled with."""
    items = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(item, BaseMessage | tuple) for item in items)
