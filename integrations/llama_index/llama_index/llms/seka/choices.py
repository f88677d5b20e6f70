"""What a HighlightPostprocessor chose, kept until the model is given the nodes' text.

Between the two LlamaIndex hands on bare text: nodes are joined, and may be split again. A choice holds the exact texts
that it was made for, so a context is only taken for its nodes if it is made of these texts, character by character.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from seka_rag import Prompt, Span

_current: ContextVar[Choice | None] = ContextVar("seka_current_choice", default=None)


@dataclass(frozen=True, eq=False)
class Choice:
    """Highlights of the nodes retrieved for one question, each a Prompt of what the model is shown of the node."""

    question: str
    nodes: tuple[Prompt, ...]
    warnings: tuple[str, ...] = ()

    def spans_in(self, context: str) -> tuple[Span, ...] | None:
        """The highlights in a context, or None if it is not made of these nodes.

        The forms are those of LlamaIndex's synthesizers: one node, all joined by blank lines or by line breaks, or a
        part of them that a splitter cut out.
        """
        own = [node for node in self.nodes if node.text == context]
        if own:
            return _common(own)
        by_blank_line = Prompt.join([_stripped(node) for node in self.nodes if node.text.strip()], "\n\n")
        forms = (by_blank_line, Prompt.join(self.nodes, "\n"))
        for whole in forms:
            if whole.text == context:
                return whole.spans
        parts = [form[i : i + len(context)] for form in forms for i in _found(context, form.text)]
        return _common(parts) if parts and context.strip() else None


def _stripped(prompt: Prompt) -> Prompt:
    text = prompt.text
    return prompt[len(text) - len(text.lstrip()) : len(text.rstrip())]


def _found(part: str, text: str) -> Iterable[int]:
    at = text.find(part)
    while at >= 0:
        yield at
        at = text.find(part, at + 1)


def _common(prompts: Sequence[Prompt]) -> tuple[Span, ...]:
    """What is highlighted in all of the prompts, which have one text: nothing tells which of them the model is given."""
    weights = [{(s.start, s.end): s.weight for s in prompt.spans} for prompt in prompts]
    shared = (s for s in prompts[0].spans if all((s.start, s.end) in own for own in weights))
    return tuple(replace(s, weight=min(own[s.start, s.end] for own in weights)) for s in shared)


class ChoiceStore:
    """The last choices of a postprocessor. Copies of their owner share it; pickles begin with an empty one."""

    def __init__(self, keep: int) -> None:
        self._kept: deque[Choice] = deque(maxlen=keep)
        self._lock = threading.Lock()

    def put(self, choice: Choice) -> None:
        """Keep a choice, for any call of the model that follows, and as the latest of this task or thread."""
        with self._lock:
            self._kept.append(choice)
        _current.set(choice)

    def find(self, question: str, context: str) -> tuple[tuple[Span, ...], tuple[str, ...]]:
        """The highlights chosen for a context, and what the report should say of them.

        Of several choices for the same nodes the one for this question counts. A chat engine that rewrites the
        question asks the model with another one: then it is the latest choice of this task or thread.
        """
        with self._lock:
            kept = [choice for choice in reversed(self._kept) if choice.question == question]
        for choice in kept:
            spans = choice.spans_in(context)
            if spans is not None:
                return spans, choice.warnings
        current = _current.get()
        spans = current.spans_in(context) if current is not None and current in self._kept else None
        if current is not None and spans is not None:
            other = "highlighted as chosen for another question, which the nodes were retrieved with"
            return spans, (other, *current.warnings)
        return (), ("not text of nodes that its HighlightPostprocessor was given: nothing in it is highlighted",)

    def __copy__(self) -> ChoiceStore:
        return self

    def __deepcopy__(self, memo: Any) -> ChoiceStore:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return ChoiceStore, (self._kept.maxlen,)
