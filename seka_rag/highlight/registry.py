"""Highlighters by name."""

from __future__ import annotations

from collections.abc import Callable

from seka_rag.errors import SpanError
from seka_rag.highlight.base import Highlighter
from seka_rag.highlight.select import AllPassages, NoPassages, TopK
from seka_rag.highlight.sentences import Sentences

#: Name -> highlighter with default arguments. A new one is one line here.
HIGHLIGHTERS: dict[str, Callable[[], Highlighter]] = {
    "all": AllPassages,
    "top_k": TopK,
    "sentences": Sentences,
    "off": NoPassages,
}


def as_highlighter(value: str | Highlighter) -> Highlighter:
    """The highlighter of a name, or the callable itself.

    Raises:
        SpanError: an unknown name, or neither a name nor callable (a class counts as not yet made).
    """
    if isinstance(value, str):
        if value not in HIGHLIGHTERS:
            raise SpanError(f"no highlighter {value!r}: choose one of {', '.join(HIGHLIGHTERS)}, or give a callable")
        return HIGHLIGHTERS[value]()
    if isinstance(value, type):
        raise SpanError(f"{value.__name__} is a class: make a highlighter of it with {value.__name__}(...)")
    if not callable(value):
        raise SpanError(
            f"{type(value).__name__} is not a highlighter: choose one of {', '.join(HIGHLIGHTERS)}, or give a callable "
            "(question, passages) -> one tuple of spans for each passage"
        )
    return value
