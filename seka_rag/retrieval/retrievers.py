"""Any retriever as one: a function from a question to passages. Frameworks are known by their methods alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any

from seka_rag.errors import DocumentError
from seka_rag.text.passages import Passage

#: A question -> passages, best first.
Retriever = Callable[[str], list[Passage]]

# Where frameworks keep the origin and the score of a document, the first that is there.
_SOURCE_KEYS = ("source", "file_path", "file_name", "url")
_SCORE_KEYS = ("relevance_score", "score")


def as_retriever(obj: object) -> Retriever:
    """A retriever of ours from anything that retrieves.

    Args:
        obj: an object with ``invoke`` (LangChain) or ``retrieve`` (LlamaIndex), or a callable of the question. It may
            return Passage, str, LangChain documents, LlamaIndex nodes or nodes with scores: one or any number.

    Returns:
        A function that passes the question on and returns passages in the order it got them, without blank ones.
        It raises DocumentError if it gets anything else back.

    Raises:
        DocumentError: not a retriever.
    """
    name = type(obj).__name__
    if isinstance(obj, type):
        raise DocumentError(f"{obj.__name__} is a class: make a retriever of it first")
    for method in ("invoke", "retrieve"):
        if callable(getattr(obj, method, None)):
            return _Adapted(getattr(obj, method), f"{name}.{method}")
    if callable(obj):
        return _Adapted(obj, getattr(obj, "__name__", name))
    raise DocumentError(
        f"{name} is not a retriever: give a callable question -> passages, or an object with invoke (LangChain) or "
        "retrieve (LlamaIndex)"
    )


class _Adapted:
    def __init__(self, retrieve: Callable[[str], object], name: str) -> None:
        self._retrieve, self._name = retrieve, name

    def __call__(self, question: str) -> list[Passage]:
        result = self._retrieve(question)
        # a document of LangChain is iterable (over its fields), so one item is recognised before many
        if is_item(result):
            items = [result]
        elif isinstance(result, Iterable) and not isinstance(result, (bytes, Mapping)):
            items = list(result)
        else:
            raise DocumentError(f"{self._name} returned {type(result).__name__}: it must return a list of passages")
        passages = [as_passage(item, f"{self._name} returned") for item in items]
        return [passage for passage in passages if passage.text.strip()]

    def __repr__(self) -> str:
        return f"as_retriever({self._name})"


def as_passage(item: Any, told: str = "got") -> Passage:
    """A passage from a Passage, str, LangChain document, or LlamaIndex node with or without score.

    Raises:
        DocumentError: none of these; ``told`` begins the message.
    """
    if isinstance(item, Passage):
        return item
    if isinstance(item, str):
        return Passage(item)
    if hasattr(item, "page_content"):
        metadata = _metadata(item)
        scores = (metadata[key] for key in _SCORE_KEYS if key in metadata)
        score = next((s for s in map(_finite, scores) if s is not None), None)
        return Passage(item.page_content, score, _source(metadata, getattr(item, "id", None)), metadata)
    if callable(getattr(item, "get_content", None)):
        node = getattr(item, "node", item)
        metadata = _metadata(node)
        source, document = _source(metadata, getattr(node, "node_id", None)), getattr(node, "ref_doc_id", None)
        # pages of one file are documents of their own
        document = None if document is None or _source(metadata, None) else str(document)
        return Passage(item.get_content(), _finite(getattr(item, "score", None)), source, metadata, document)
    raise DocumentError(
        f"{told} {type(item).__name__}: it must be a Passage, a str, a LangChain document or a LlamaIndex node"
    )


def is_item(value: object) -> bool:
    """Whether it is one passage or document, and no list of them."""
    return isinstance(value, (str, Passage)) or hasattr(value, "page_content") or hasattr(value, "get_content")


def _metadata(item: object) -> dict[str, object]:
    return dict(getattr(item, "metadata", None) or {})


def _source(metadata: Mapping[str, object], identity: object) -> str | None:
    found = next((metadata[key] for key in _SOURCE_KEYS if metadata.get(key)), identity)
    return None if found is None else str(found)


def _finite(value: object) -> float | None:
    """The number, if it is one. Scores come from outside: NaN and the like count as unknown."""
    if isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None
