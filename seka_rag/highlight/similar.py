"""A highlighter that marks what is closest in meaning to the question, by an embedding model of yours."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from seka_rag.errors import SpanError
from seka_rag.highlight.base import PassageSpans
from seka_rag.highlight.ranked import Unit, check_ranking, mark_best, units_of
from seka_rag.text.passages import Passage

Vectors = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Similar:
    """Marks the passages, or the sentences, whose embeddings are closest to the question's (cosine).

    Of ten passages on one subject it finds the one with the answer more often than shared words do
    (``docs/how-to/highlight.md`` has the figures), and it needs no common words or language. The best of all passages is
    marked, so a passage can draw the highlight to itself by being close to the question, which ``Sentences`` prevents: where
    anybody can add documents, put a trust policy around it (``Trusted``).

    Args:
        embed: an embedding model of LangChain (``Embeddings``) or LlamaIndex (``BaseEmbedding``), or a function from a list
            of texts to one vector each. Questions and passages go through the model's own methods for each.
        top: how many passages or sentences to mark, over all passages, at least 1. Ties keep the order of passages.
        unit: what is compared and marked: whole passages, or sentences.

    Raises:
        SpanError: ``embed`` is none of these, or another argument out of range; on a call, vectors that are not one for each
            text, of one length and finite.
    """

    embed: Any
    top: int = 1
    unit: Unit = "passage"

    def __post_init__(self) -> None:
        _functions(self.embed)
        check_ranking(self.top, self.unit)

    def __call__(self, question: str, passages: Sequence[Passage]) -> PassageSpans:
        units = [units_of(passage, self.unit) for passage in passages]
        texts = [p.text[s.start : s.end] for p, spans in zip(passages, units, strict=True) for s in spans]
        if not texts:
            return [() for _ in passages]
        of_questions, of_texts = _functions(self.embed)
        vectors = _checked([*of_questions([question]), *of_texts(texts)], len(texts) + 1)
        return mark_best(units, [_cosine(vectors[0], vector) for vector in vectors[1:]], self.top)


def _functions(embed: Any) -> tuple[Callable[[list[str]], Vectors], Callable[[list[str]], Vectors]]:
    """How the model embeds questions, and how texts."""
    if isinstance(embed, type):
        raise SpanError(f"embed={embed.__name__} is a class: give an object of it")
    if hasattr(embed, "embed_documents"):  # LangChain
        return lambda texts: [embed.embed_query(text) for text in texts], embed.embed_documents
    if hasattr(embed, "get_text_embedding_batch"):  # LlamaIndex
        return lambda texts: [embed.get_query_embedding(text) for text in texts], embed.get_text_embedding_batch
    if not callable(embed):
        raise SpanError(
            f"embed={embed!r}: give an embedding model of LangChain or LlamaIndex, or a function from a list of texts to one "
            "vector each"
        )
    return embed, embed


def _checked(vectors: Vectors, count: int) -> list[list[float]]:
    """The vectors as floats.

    Raises:
        SpanError: not one for each text, of different lengths, or not finite.
    """
    rows = [[float(value) for value in vector] for vector in vectors]
    if len(rows) != count:
        raise SpanError(f"the embedding model returned {len(rows)} vectors for {count} texts")
    if len({len(row) for row in rows}) != 1 or not all(math.isfinite(value) for row in rows for value in row):
        raise SpanError("the embedding model returned vectors of different lengths, or with values that are not finite")
    return rows


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    norm = math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(math.fsum(y * y for y in b))
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / norm if norm else 0.0
