"""Instructions and the question as highlights: what the system and the user say, and never what was retrieved.

Of a message that a template made, instructions are the template's own words: what came in through a variable is not among
them. A message that no template is known for, or that came in through a placeholder, was written by the caller; it counts
whole, unless a retriever ran, for then its text may be in there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import replace

from langchain_core.prompts import MessagesPlaceholder

from langchain_seka.capture import FilledPrompt
from langchain_seka.messages import text_of
from langchain_seka.templates import Filled, RenderedMessage, rebuild
from seka_rag import Span
from seka_rag.frameworks import (
    INSTRUCTIONS,
    QUESTION,
    QUESTION_VARIABLES,
    HighlightSettings,
    Squeezed,
    own_words,
    place_passages,
    said,
)

Follow = Callable[[Filled, Sequence[str]], list[RenderedMessage] | None]


def said_spans(
    targets: Sequence[tuple[str, str] | None],
    prompts: Sequence[FilledPrompt],
    follow: Follow,
    settings: HighlightSettings,
    *,
    passages: Sequence[Squeezed],
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
    asked = {i for i, t in enumerate(targets) if t is not None and t[0] == "system"} | set(users[-1:])
    made = [m for p in prompts if (f := rebuild(p)) is not None for m in _of_template(f, follow, passages, queries)]
    spans: list[tuple[int, Span]] = []
    for i in sorted(asked):
        kind, text = targets[i] or ("", "")
        own = next((found for message, found in made if (message.type, message.text) == (kind, text)), None)
        if own is None:
            own = [] if retrieved else [*said(text, INSTRUCTIONS if kind == "system" else QUESTION)]
        spans += [
            (i, span) for span in own if settings.has("instructions" if span.source == INSTRUCTIONS else "question")
        ]
    return spans


def _of_template(
    filled: Filled, follow: Follow, passages: Sequence[Squeezed], queries: Set[str]
) -> list[tuple[RenderedMessage, list[Span]]]:
    """The messages of a template with its own words and the question in each."""
    template = filled.template
    given = {**template.partial_variables, **filled.inputs}
    placeholders = [m for m in getattr(template, "messages", ()) if isinstance(m, MessagesPlaceholder)]
    if {*template.input_variables} - {*filled.values} - {p.variable_name for p in placeholders}:
        return []  # a variable that is neither text nor messages
    partial = {name: given[name] for name in template.partial_variables if isinstance(given[name], str)}
    values = {**partial, **filled.values}
    questions = {
        name
        for name, text in values.items()
        if (text.strip() in queries or name in QUESTION_VARIABLES) and not place_passages(passages, text)
    }
    passed = {(m.type, text_of(m)) for p in placeholders for m in p.format_messages(**given)}
    made = []
    for message in follow(replace(filled, values=values), list(values)) or ():
        if (message.type, message.text) in passed or (passed and message.type == "text"):
            continue
        spans = own_words(message.text, message.placements)
        for placement in message.placements:
            if placement.name in questions:
                spans += said(message.text, QUESTION, placement.start, placement.end)
        made.append((message, sorted(spans)))
    return made
