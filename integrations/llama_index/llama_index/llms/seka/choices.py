"""What a HighlightPostprocessor chose, kept until the model is given the nodes' text.

Between the two LlamaIndex hands on bare text: nodes are joined, put into another order, left out, split again. A choice
holds the exact texts that it was made for, and a context is only taken for its nodes if it is made of these and of nothing
else.
"""

from __future__ import annotations

import threading
from collections import deque
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from seka_rag import Prompt, Span
from seka_rag.frameworks import NOTHING_CHOSEN, Marks, Squeezed, place_passages, unexplained

_current: ContextVar[Choice | None] = ContextVar("seka_current_choice", default=None)
_FOREIGN = (
    "this is not text of the nodes that its HighlightPostprocessor was given. Put that postprocessor last, behind those that "
    "change nodes, into the query engine whose model has it"
)
#: Characters of a piece of a node that a splitter left at a border of the context. A shorter one is not looked for.
_LEAST = 12


@dataclass(eq=False)
class Choice:
    """Highlights of the nodes retrieved for one question, each a Prompt of what the model is shown of the node.

    Attributes:
        used: whether the model was given text of these nodes.
    """

    question: str
    nodes: tuple[Prompt, ...]
    warnings: tuple[str, ...] = ()
    used: bool = False

    @cached_property
    def _texts(self) -> tuple[Squeezed, ...]:
        return tuple(Squeezed(node.text) for node in self.nodes)

    def spans_in(self, context: str) -> tuple[Span, ...] | None:
        """The highlights in a context, or None if it is not made of these nodes."""
        found = place_passages(self._texts, context, least=_LEAST)
        rest = unexplained((place for places in found.values() for place in places), context)
        if not found or any(len(piece) >= _LEAST or not any(piece in t.text for t in self._texts) for piece in rest):
            return None
        self.used = True
        moved = (place.move(span) for i, places in found.items() for span in self.nodes[i].spans for place in places)
        return tuple(
            sorted({span for span in moved if span is not None}, key=lambda s: (s.start, s.end, s.source or ""))
        )


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

    def find(self, question: str, context: str) -> Marks:
        """The highlights chosen for a context, and what the report should say of them.

        Of several choices for the same nodes the one for this question counts. A chat engine that rewrites the
        question asks the model with another one: then it is the latest choice of this task or thread.
        """
        with self._lock:
            kept = [choice for choice in reversed(self._kept) if choice.question == question]
        for choice in kept:
            if (spans := choice.spans_in(context)) is not None:
                return Marks(spans, choice.warnings, None if spans else NOTHING_CHOSEN)
        current = _current.get()
        spans = current.spans_in(context) if current is not None and current in self._kept else None
        if current is None or spans is None:
            again = any(choice.used for choice in kept)  # then it is what was made of answers about these nodes
            return Marks(warnings=(_FOREIGN,)) if again else Marks(unmarked=_FOREIGN)
        other = "highlighted as chosen for another question, which the nodes were retrieved with"
        return Marks(spans, (other, *current.warnings), None if spans else NOTHING_CHOSEN)

    def __copy__(self) -> ChoiceStore:
        return self

    def __deepcopy__(self, memo: Any) -> ChoiceStore:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return ChoiceStore, (self._kept.maxlen,)
