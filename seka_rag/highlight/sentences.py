"""A highlighter that marks the sentences of each passage that share the most telling words with the question."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from seka_rag.errors import SpanError
from seka_rag.highlight.base import PassageSpans
from seka_rag.text.passages import Passage
from seka_rag.text.sentences import sentences
from seka_rag.text.spans import Span
from seka_rag.text.words import STOPWORDS, words

#: How a question begins, if it does not end with its mark. Other queries are words that evidence may well hold in a row.
_ASKING = frozenset(
    """who whom whose what which when where why how do does did is are was were has have had can could may might must shall
    should will would""".split()
)

#: How many sentences beyond ``top`` a source may get: who writes twenty of a kind, in one passage or in many, gets no more of
#: the prompt than who writes four.
_MORE = 3

#: Weight of what a source says that does not name what the question names: mostly it speaks of another one. Not 0, since who
#: writes of one company only does not name it on every page.
_ELSEWHERE = 0.5

_MARKS = ("?", "\uff1f", "\u061f")
_WORD = re.compile(r"\w[\w'\u2019-]*")
_HEADING = re.compile(r"#{1,6}\s")


@dataclass(frozen=True, slots=True)
class Sentences:
    """Marks, in every passage, the sentences that fit the question best.

    A sentence scores the sum, over the content words that it shares with the question, of the word's rarity among
    the sentences of the same passage. A passage that shares less than ``min_overlap`` with it is left unmarked.
    Sentences that tie with the last one chosen are marked as well, up to three of them: nothing tells them apart. A sentence
    that repeats the question word by word is no evidence: so writes who wants to be chosen. What a passage says twice counts
    once: of its sentences with the same content words the first is marked, and none that says one thing over and over. The
    words of a Markdown heading count for the sentences below it, and the heading itself is not marked.

    If the question names somebody or something (words with a capital inside a sentence), a source in which less than
    ``min_overlap`` of these words stand gets half the weight: like questions about others have like answers.

    Passages of one source together get no more than one of them can: ``top`` sentences and three more, those that share the
    most words with the question, and a sentence that stands in several of them is marked in the first. A passage that does not
    say where it came from is a source of its own.

    Only the source itself counts, never its neighbours: a document that copies another passage, or the question, cannot
    move, add or remove a highlight outside its source. That is why rarity is not taken over all passages, and why equal
    passages of different sources are all marked: a chain may drop the first of them later.

    Args:
        top: how many sentences of a passage to mark, at least 1.
        min_overlap: share of the question's content words that the passage must contain, in [0, 1]. At 0, one word
            is enough. It is asked of the passage and not of one sentence, because a title or first sentence often
            names what the later ones speak of. Of a longer message, it may be the words of a sentence that asks; and
            of any, its names: the words with a capital inside a sentence.

    Raises:
        SpanError: an argument out of range.
    """

    top: int = 1
    min_overlap: float = 0.34

    def __post_init__(self) -> None:
        if self.top < 1:
            raise SpanError(f"top={self.top}: give at least 1, or use the highlighter 'off' to mark nothing")
        if not 0 <= self.min_overlap <= 1:
            raise SpanError(f"min_overlap={self.min_overlap}: give a share in [0, 1]")

    def __call__(self, question: str, passages: Sequence[Passage]) -> PassageSpans:
        asked, names = content_stems(question), _names_in(question)
        about = (asked, *_questions_in(question), *names)
        marked: list[list[Span]] = [[] for _ in passages]
        for places in _by_document(passages):
            texts = "\n".join(passages[i].text for i in places)
            weight = 1.0 if not names or self._holds(content_stems(texts), names) else _ELSEWHERE
            once: dict[frozenset[str], tuple[int, Span]] = {}
            for i in places:
                for stems, span in self._best(question, about, passages[i].text):
                    once.setdefault(stems, (i, span))
            ranked = sorted(once, key=lambda stems: -len(stems & asked))  # ties stay in the retriever's order
            for i, span in sorted(once[stems] for stems in ranked[: self.top + _MORE]):
                marked[i].append(Span(span.start, span.end, weight, passages[i].source))
        return [tuple(spans) for spans in marked]

    def _best(self, question: str, about: Sequence[frozenset[str]], text: str) -> list[tuple[frozenset[str], Span]]:
        """The sentences of a passage that fit best, in the order of the text, each with its content words.

        Args:
            about: the content words of the question, and groups of them of which the passage may hold enough instead.
        """
        asked = about[0]
        first: dict[frozenset[str], Span] = {}
        for span, stems in _under_headings(question, text):
            first.setdefault(stems, span)
        rarity = {word: _idf(len(first), sum(word in stems for stems in first)) for word in asked}
        covered = asked.intersection(frozenset().union(*first))
        if not self._holds(covered, about):
            return []
        # fsum: exact in any order of a set's words, so equal sums tie
        scores = {stems: math.fsum(rarity[word] for word in asked & stems) for stems in first}
        ranked = sorted((s for s, score in scores.items() if score > 0), key=lambda s: (-scores[s], first[s].start))
        if not ranked:
            return []
        least = scores[ranked[: self.top][-1]]
        best = (stems for stems in ranked[: self.top + _MORE] if scores[stems] >= least)
        return sorted(((stems, first[stems]) for stems in best), key=lambda one: one[1])

    def _holds(self, told: frozenset[str], groups: Iterable[frozenset[str]]) -> bool:
        """Whether these words hold enough of one of the groups."""
        return any(len(told & words) >= self.min_overlap * len(words) for words in groups)


def _by_document(passages: Sequence[Passage]) -> Iterable[list[int]]:
    """The passages of each document, else of each source; one that names neither stands alone."""
    found: dict[object, list[int]] = {}
    for i, passage in enumerate(passages):
        found.setdefault(passage.document or passage.source or i, []).append(i)
    return found.values()


def _under_headings(question: str, text: str) -> Iterator[tuple[Span, frozenset[str]]]:
    """The sentences of a passage with their content words and those of the heading above.

    A heading says what the sentences below it are about, and is no evidence by itself. A passage of headings only has nothing
    else to mark.
    """
    own = [s for s in sentences(text) if not _is_for_show(question, text[s.start : s.end])]
    headings = {s for s in own if _HEADING.match(text[s.start : s.end])}
    above: frozenset[str] = frozenset()
    for span in own:
        stems = content_stems(text[span.start : span.end])
        if span in headings and len(headings) < len(own):
            above = stems
        else:
            yield span, stems | above


def _questions_in(text: str) -> list[frozenset[str]]:
    """The content words of each sentence that asks, of those that have at least two: people say hello first."""
    parts = (text[s.start : s.end] for s in sentences(text))
    return [found for part in parts if part.endswith(_MARKS) and len(found := content_stems(part)) > 1]


def _names_in(text: str) -> list[frozenset[str]]:
    """The content words that the text writes with a capital inside a sentence; none of a sentence in title case.

    Evidence in other words than the question's still says whom it speaks of.
    """
    found: list[str] = []
    for span in sentences(text):
        inside = _WORD.findall(text[span.start : span.end])[1:]
        capital = [word for word in inside if word[0].isupper() and len(word) > 1]
        if not any(word.istitle() and word.casefold() in STOPWORDS for word in capital):
            found += capital
    stems = content_stems(" ".join(found))
    return [stems] if stems else []


def _is_for_show(question: str, sentence: str) -> bool:
    """Whether a sentence holds a whole question, as it is worded, or says its words three times over."""
    telling = [word for word in words(sentence) if word not in STOPWORDS]
    if len(telling) >= 3 * max(3, len(set(telling))):
        return True
    asked = words(question)
    if len(asked) < 3 or not (asked[0] in _ASKING or question.rstrip().endswith(_MARKS)):
        return False
    return f" {' '.join(asked)} " in f" {' '.join(words(sentence))} "


def content_stems(text: str) -> frozenset[str]:
    """The stems of a text's content words. A text of stop words only has none."""
    return frozenset(stem(word) for word in words(text) if word not in STOPWORDS)


def stem(word: str) -> str:
    """A word without its commonest English endings, so that "lives", "lived" and "living" meet.

    The result is for comparison only and need not be a word. Words with digits or other scripts stay whole.
    """
    if len(word) < 4 or not word.isascii() or not word.isalpha():
        return word
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith(("sses", "xes", "ches", "shes")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ing", "ed"):
        root = word.removesuffix(ending)
        if root != word and len(root) >= 3 and any(c in "aeiouy" for c in root):
            doubled = root[-1] == root[-2] and root[-1] not in "lsz"
            word = root[:-1] if doubled else root
            break
    return word.removesuffix("e") if len(word) > 3 else word


def _idf(count: int, containing: int) -> float:
    """Rarity of a word in ``containing`` of ``count`` sentences; above 0 even if all contain it."""
    return math.log(1 + (count - containing + 0.5) / (containing + 0.5))
