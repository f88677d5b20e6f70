"""Who may be highlighted. Retrieved text is untrusted, and a highlight is a privilege."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import NamedTuple

from seka_rag.errors import SpanError
from seka_rag.highlight.base import Highlighter, PassageSpans, check_spans
from seka_rag.text.passages import Passage
from seka_rag.text.spans import Span


@dataclass(frozen=True, slots=True)
class TrustPolicy:
    """Which passages may be highlighted, and how much of each. By default all that a retriever returned.

    A passage must satisfy every condition that is given. The shares and weights are limits of each passage by
    itself, so no passage can use up the allowance of another; together they bound the marked share of all passages.

    Args:
        sources: glob patterns of trusted sources, such as ``"handbook/*"`` (``*`` also crosses ``/``). For
            addresses, write the host's closing slash: ``"https://example.org/*"``. A passage without a source, or
            with ``..`` in it, matches none.
        metadata: trusted values by metadata key, each one value or a collection of them. A passage that lacks a key
            is not trusted.
        check: last condition, a function of the passage that returns True or False. What it raises is passed on.
        max_share: largest share of a passage's characters that may be marked, in (0, 1]. Spans are kept whole, the
            heaviest first, then the first in the text; those that no longer fit are dropped.
        max_weight: larger weights are lowered to this.
        name: for warnings.

    Raises:
        SpanError: a limit out of range, or ``sources`` given as one string.
    """

    sources: Sequence[str] | None = None
    metadata: Mapping[str, object] | None = field(default=None, hash=False)
    check: Callable[[Passage], bool] | None = None
    max_share: float = 1.0
    max_weight: float = 1.0
    name: str = "TrustPolicy"

    def __post_init__(self) -> None:
        if isinstance(self.sources, str):
            raise SpanError(f"sources={self.sources!r}: give a list of patterns, [{self.sources!r}]")
        if self.sources is not None:
            object.__setattr__(self, "sources", tuple(self.sources))
        if not 0 < self.max_share <= 1:
            raise SpanError(f"max_share={self.max_share}: give a share in (0, 1]")
        if not math.isfinite(self.max_weight) or self.max_weight < 0:
            raise SpanError(f"max_weight={self.max_weight}: give a finite number of at least 0")

    def distrust(self, passage: Passage) -> str | None:
        """Why the passage may not be highlighted, in words without its text; None if it may.

        Raises:
            SpanError: the check returned something else than True or False, such as the coroutine of an ``async def``.
        """
        if self.sources is not None and not _matches(passage.source, self.sources):
            return "its source is not on the list"
        for key, trusted in (self.metadata or {}).items():
            if key not in passage.metadata or not _is_one_of(passage.metadata[key], trusted):
                return f"its metadata {key!r} is not a trusted value"
        if self.check is not None:
            passed = self.check(passage)
            if passed not in (True, False):
                raise SpanError(
                    f"the check of {self.name} returned {type(passed).__name__}: it must return True or False"
                )
            if not passed:
                return "the policy's check refused it"
        return None

    def limit(self, passage: Passage, spans: Sequence[Span]) -> tuple[Span, ...]:
        """The spans within the policy's limits, in the order of the text."""
        budget = self.max_share * len(passage.text)
        covered = bytearray(len(passage.text))  # 1 where a kept span lies: overlapping characters count once
        kept: list[Span] = []
        for span in sorted(spans, key=lambda s: (-s.weight, s.start, s.end)):
            new = covered.count(0, span.start, span.end)
            if min(span.weight, self.max_weight) > 0 and new <= budget:
                kept.append(replace(span, weight=min(span.weight, self.max_weight)))
                covered[span.start : span.end] = b"\x01" * len(span)
                budget -= new
        return tuple(sorted(kept, key=lambda s: (s.start, s.end)))


@dataclass(frozen=True, slots=True)
class TrustDecision:
    """What became of one passage, for reports and logs; holds no text.

    Attributes:
        passage: its index in the list of passages.
        source: where it came from.
        trusted: whether it could be highlighted.
        reason: why not, or which limit cut its highlights; None if there is nothing to say.
        spans: what is highlighted in it.
        dropped: how many spans the limits removed.
    """

    passage: int
    source: str | None
    trusted: bool
    reason: str | None
    spans: tuple[Span, ...]
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Trusted:
    """A highlighter that sees trusted passages only, within a policy's limits.

    Untrusted passages are withheld from the inner highlighter, not just removed from its result, so they can
    neither be marked nor take a place among the best.

    Args:
        highlighter: the highlighter to govern.
        policy: what may be highlighted.
        record: called with the decisions of every call, one for each passage; for logs. Nothing is stored here:
            one ``Trusted`` may serve several threads.

    Raises:
        SpanError: a ``Trusted`` in another one.
    """

    highlighter: Highlighter
    policy: TrustPolicy = field(default_factory=TrustPolicy)
    record: Callable[[list[TrustDecision]], None] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.highlighter, Trusted):  # what the inner one distrusts would be seen by nobody
            raise SpanError("a Trusted cannot govern another one: give one TrustPolicy with the conditions of both")

    def __call__(self, question: str, passages: Sequence[Passage]) -> PassageSpans:
        decisions = self.decide(question, passages)
        if self.record is not None:
            self.record(decisions)
        return [decision.spans for decision in decisions]

    def decide(self, question: str, passages: Sequence[Passage]) -> list[TrustDecision]:
        """Highlights with the reason for each, one decision for each passage.

        Raises:
            SpanError: the inner highlighter returned something that does not fit the passages.
        """
        reasons = [self.policy.distrust(p) for p in passages]
        trusted = [p for p, reason in zip(passages, reasons, strict=True) if reason is None]
        marked = iter(check_spans(trusted, self.highlighter(question, trusted)))
        decisions = []
        for i, (passage, reason) in enumerate(zip(passages, reasons, strict=True)):
            if reason is not None:
                decisions.append(TrustDecision(i, passage.source, False, reason, ()))
                continue
            wanted = next(marked)
            spans = self.policy.limit(passage, wanted)
            dropped = len(wanted) - len(spans)
            why = f"{dropped} highlight(s) beyond max_share={self.policy.max_share}" if dropped else None
            decisions.append(TrustDecision(i, passage.source, True, why, spans, dropped))
        return decisions


class Chosen(NamedTuple):
    """What a highlighter chose in passages.

    Attributes:
        spans: in each passage.
        warnings: which sources its trust policy kept unmarked, and why.
        distrusted: indices of the passages that may not be highlighted at all.
    """

    spans: PassageSpans
    warnings: tuple[str, ...] = ()
    distrusted: frozenset[int] = frozenset()


def choose_spans(highlighter: Highlighter, question: str, passages: Sequence[Passage]) -> Chosen:
    """What a highlighter chooses in passages.

    Raises:
        SpanError: a result that does not fit the passages.
    """
    if not isinstance(highlighter, Trusted):
        return Chosen(check_spans(passages, highlighter(question, passages)))
    decisions = highlighter.decide(question, passages)
    if highlighter.record is not None:
        highlighter.record(decisions)
    sources: dict[str, list[str]] = {}
    for decision in decisions:
        if decision.reason is not None:
            kept = (
                f"dropped {decision.reason}, in"
                if decision.trusted
                else f"{decision.reason}, so it is not highlighted:"
            )
            sources.setdefault(kept, []).append(_shown(decision.source))
    told = tuple(f"{highlighter.policy.name}: {kept} {_listed(own)}" for kept, own in sources.items())
    distrusted = frozenset(decision.passage for decision in decisions if not decision.trusted)
    return Chosen([decision.spans for decision in decisions], told, distrusted)


def distrusts(highlighter: Highlighter, passage: Passage) -> bool:
    """Whether a highlighter may not highlight this passage at all."""
    return isinstance(highlighter, Trusted) and highlighter.policy.distrust(passage) is not None


def _shown(source: str | None) -> str:
    """A source may be anybody's text."""
    return (
        "a passage without a source" if source is None else repr(source if len(source) <= 80 else source[:77] + "...")
    )


def _listed(sources: Sequence[str]) -> str:
    own = list(dict.fromkeys(sources))
    return ", ".join(own[:5]) + (f" and {len(own) - 5} more" if len(own) > 5 else "")


def _matches(source: str | None, patterns: Sequence[str]) -> bool:
    if source is None:
        return False
    path = source.replace("\\", "/")
    return ".." not in path.split("/") and any(fnmatchcase(path, pattern.replace("\\", "/")) for pattern in patterns)


def _is_one_of(value: object, trusted: object) -> bool:
    if isinstance(trusted, (list, tuple, set, frozenset)):
        return any(type(value) is type(t) and value == t for t in trusted)
    return type(value) is type(trusted) and bool(value == trusted)
