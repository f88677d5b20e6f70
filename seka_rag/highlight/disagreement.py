"""Sources that contradict each other, as far as words tell: a highlight would make whichever of them lies stronger."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from seka_rag.highlight.base import PassageSpans
from seka_rag.highlight.stems import content_stems
from seka_rag.text.passages import Passage
from seka_rag.text.spans import Span

_WORD = re.compile(r"\w+")


#: Share of the question's content words that two sentences must both hold to be about one thing.
_COMMON = 0.5
#: With how many sentences of the first passages each one is compared, so that a thousand passages take no time.
_COMPARED = 64


def undisputed(question: str, passages: Sequence[Passage], spans: PassageSpans) -> PassageSpans:
    """The spans without those of passages that contradict each other on what is asked.

    Two sentences of passages of different sources contradict each other if they are about one thing and say different things
    of it. They are about one thing if both hold the same half of the question's content words, some of its subject among
    these, and their passages hold the same of the subject: the names in the question, or all its content words where it has
    none. What a sentence says is the names and numbers in it that the question lacks: two that share none of these differ.
    Where one of them has none, they differ if they share no other content word at all. A question of one word asks nothing
    that could be contradicted.

    A passage can so take a highlight away from another one, but never give one or move it. Passages of one source do not
    contradict each other, nor does one that says the same in the same words.
    """
    asked = content_stems(question)
    subject = asked & _names(question) or asked
    claims = [
        _Claim.of(i, span, passage, asked)
        for i, (passage, some) in enumerate(zip(passages, spans, strict=True))
        for span in some
    ]
    if len(asked) < 2:
        return spans
    held = {claim.passage: content_stems(passages[claim.passage].text) & subject for claim in claims}
    stated: dict[int, set[frozenset[str]]] = {}
    for claim in claims:
        stated.setdefault(claim.passage, set()).add(claim.words)
    compared = list({(held[claim.passage], claim.words): claim for claim in reversed(claims)}.values())[-_COMPARED:]
    disputed: set[tuple[int, Span]] = set()
    for one, other in itertools.product(claims, compared):
        common = one.words & other.words & asked
        if (
            one.passage != other.passage
            and (one.source is None or one.source != other.source)
            and held[one.passage] == held[other.passage]
            and common & subject
            and len(common) >= _COMMON * len(asked)
            and one.differs(other)
            and not (one.words in stated[other.passage] or other.words in stated[one.passage])
        ):
            disputed |= {(one.passage, one.span), (other.passage, other.span)}
    return [tuple(s for s in some if (i, s) not in disputed) for i, some in enumerate(spans)]


@dataclass(frozen=True)
class _Claim:
    """A highlighted sentence: its content words, those that the question lacks, and the names and numbers among these."""

    passage: int
    span: Span
    source: str | None
    words: frozenset[str]
    others: frozenset[str]
    named: frozenset[str]

    @classmethod
    def of(cls, index: int, span: Span, passage: Passage, asked: frozenset[str]) -> _Claim:
        text = passage.text[span.start : span.end]
        words = content_stems(text)
        return cls(index, span, passage.source, words, words - asked, _names(text) & words - asked)

    def differs(self, other: _Claim) -> bool:
        if self.named and other.named:
            return not self.named & other.named
        return bool(self.others and other.others) and not self.others & other.others


def _names(text: str) -> frozenset[str]:
    """Stems of the words with a capital letter, but for the first one, and of those with a digit."""
    found = [
        word
        for i, word in enumerate(_WORD.findall(text))
        if (i > 0 and word[0].isupper()) or any(map(str.isdigit, word))
    ]
    return content_stems(" ".join(found))
