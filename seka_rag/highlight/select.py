"""Highlighters that mark whole passages: none, all, or those the retriever scored best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from seka_rag.errors import SpanError
from seka_rag.highlight.base import PassageSpans, whole
from seka_rag.text.passages import Passage


@dataclass(frozen=True, slots=True)
class NoPassages:
    """Marks nothing: the model reads the prompt as it is."""

    def __call__(self, question: str, passages: Sequence[Passage]) -> PassageSpans:
        return [() for _ in passages]


@dataclass(frozen=True, slots=True)
class AllPassages:
    """Marks every passage whole. With several passages, that is often no better than marking none.

    Args:
        weight_by_score: weigh each passage with its score / the largest score, at most 1, instead of 1.
    """

    weight_by_score: bool = False

    def __call__(self, question: str, passages: Sequence[Passage]) -> PassageSpans:
        return TopK(max(1, len(passages)), self.weight_by_score)(question, passages)


@dataclass(frozen=True, slots=True)
class TopK:
    """Marks the ``k`` passages of the largest score whole.

    Passages without a score come after those with one; ties, and a list without any scores, keep the retriever's
    order. Which passages are marked therefore depends on the retriever's scores and on no passage's text.

    Args:
        k: how many passages to mark, at least 1.
        weight_by_score: weigh each passage with its score / the largest score, at most 1, instead of 1. A score of
            0 or less means weight 0, which marks nothing.

    Raises:
        SpanError: ``k`` below 1; on a call with ``weight_by_score``, a passage without score or no score above 0.
    """

    k: int = 1
    weight_by_score: bool = False

    def __post_init__(self) -> None:
        if self.k < 1:
            raise SpanError(f"k={self.k}: give at least 1, or use the highlighter 'off' to mark nothing")

    def __call__(self, question: str, passages: Sequence[Passage]) -> PassageSpans:
        order = sorted(range(len(passages)), key=lambda i: _descending(passages[i].score))
        chosen = set(order[: self.k])
        weights = score_weights(passages) if self.weight_by_score else [1.0] * len(passages)
        return [whole(p, w) if i in chosen else () for i, (p, w) in enumerate(zip(passages, weights, strict=True))]


def score_weights(passages: Sequence[Passage]) -> list[float]:
    """Score / largest score of each passage, in [0, 1].

    Raises:
        SpanError: a passage has no score, or none is above 0.
    """
    scores = [p.score for p in passages if p.score is not None]
    if len(scores) < len(passages):
        missing = next(i for i, p in enumerate(passages) if p.score is None)
        raise SpanError(f"weight_by_score=True, but passage {missing} has no score: use a retriever that scores")
    if scores and max(scores) <= 0:
        raise SpanError("weight_by_score=True, but no score is above 0: use weight_by_score=False")
    top = max(scores, default=1.0)
    return [min(1.0, max(0.0, score / top)) for score in scores]


def _descending(score: float | None) -> tuple[bool, float]:
    return score is None, -(score or 0.0)
