"""Where retrieved passages stand inside a text that was made of them, such as the value of a prompt's ``{context}``.

White space may differ (joined lines, indentation). A passage may be cut, but only where a cut shows: at the border of the
text, or at a mark such as "...". Nothing else may change: a passage that was rewritten is not found, and nothing is marked
for it. What counts is which document stands where, not which words are alike:

* Whole passages are placed before any part of one, and no two share a character.
* Of the ways to do that, the one that explains most of the text is taken, in the order of the passages where it can be.
  So a document that the chain left out cannot take the place of one that it kept.
* Passages of one text are placed in their order. If there are more of them than places, those left over share the places.
* A passage that is made of others, word for word, takes nothing from them: they are placed as well.
* Where a text stands more often than passages explain, in another's title say, no place of its passages is certain.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from seka_rag.text.spans import Span
from seka_rag.text.words import UNSPACED

#: A passage that is cut off must still stand there with this many characters.
LEAST = 32
_MANY = 256
_CUT = re.compile(r" ?(?:[\[(<]? ?(?:\.\.\.|…)|[\[(<]?(?:truncated|cut off)\b)", re.IGNORECASE)


class Squeezed:
    """A text with each run of white space as one space. Make it once for a passage that is placed in several texts."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.text = " ".join(source.split())

    @cached_property
    def where(self) -> list[int]:
        """For each character, where it stood in the source."""
        where: list[int] = []
        for match in re.finditer(r"\S+", self.source):
            if where:
                where.append(match.start() - 1)
            where.extend(range(match.start(), match.end()))
        return where

    @cached_property
    def size(self) -> int:
        """How many letters and digits it has."""
        return sum(map(str.isalnum, self.text))


@dataclass(frozen=True)
class Place:
    """One passage in one text: ``length`` characters, from ``offset`` of the one and ``start`` of the other.

    All three count in the squeezed texts. It is ``certain`` if the passage can stand nowhere else.
    """

    passage: Squeezed
    text: Squeezed
    start: int
    offset: int
    length: int
    certain: bool = True

    def move(self, span: Span) -> Span | None:
        """A span of the passage as a span of the text; None if that part of the passage was cut off."""
        first = max(bisect_left(self.passage.where, span.start), self.offset)
        last = min(bisect_left(self.passage.where, span.end), self.offset + self.length)
        while first < last and self.passage.text[first] == " ":
            first += 1
        while first < last and self.passage.text[last - 1] == " ":
            last -= 1
        if first >= last:
            return None
        where, by = self.text.where, self.start - self.offset
        return Span(where[first + by], where[last - 1 + by] + 1, span.weight, span.source)


def mover(places: Sequence[Place]) -> Callable[[Span], list[Span]]:
    """From a span of a passage to where it stands in a text, at each of its places there that hold it."""
    return lambda span: [moved for place in places if (moved := place.move(span)) is not None]


@dataclass(frozen=True)
class _Fit:
    """A way in which one passage, or a part of it, can stand in the text."""

    passage: int
    start: int
    end: int
    offset: int
    size: int  # letters and digits that it explains


def place_passages(
    passages: Sequence[str | Squeezed], text: str, *, least: int = LEAST
) -> dict[int, tuple[Place, ...]]:
    """Index of a passage -> where it stands in the text; one that is not there is absent.

    Takes time linear in the text for each passage.

    Args:
        least: characters that must be left of a passage that is cut.

    Returns:
        One place each, save for passages that outnumber the places of their text: these have all of them.
    """
    whole = Squeezed(text)
    own = [p if isinstance(p, Squeezed) else Squeezed(p) for p in passages]
    fits = list(_whole_fits(own, whole.text))
    taken = _Taken()
    taken.choose(fits, by=lambda fit: fit.passage)
    taken.choose(fits, by=lambda fit: fit.start)  # a chain may have changed their order
    taken.share(fits)
    taken.share_tiled(fits)
    parts = [fit for i, p in enumerate(own) for fit in _part_fits(i, p.text, whole.text, least)]
    left = [fit for fit in parts if fit.passage not in taken.found]
    taken.choose(left, by=lambda fit: fit.passage)
    taken.choose(left, by=lambda fit: fit.start)
    taken.share(left)
    certain = _certain(taken.found, [*fits, *parts], whole.text)
    return {
        i: tuple(Place(own[i], whole, fit.start, fit.offset, fit.end - fit.start, i in certain) for fit in found)
        for i, found in sorted(taken.found.items())
    }


def unexplained(places: Iterable[Place], text: str) -> list[str]:
    """The pieces of a text, in order, that hold letters or digits and belong to none of the places in it."""
    squeezed, end, pieces = " ".join(text.split()), 0, list[str]()
    for place in sorted(places, key=lambda p: p.start):
        pieces.append(squeezed[end : place.start])
        end = max(end, place.start + place.length)
    return [piece.strip() for piece in (*pieces, squeezed[end:]) if any(map(str.isalnum, piece))]


class _Taken:
    """The places that are taken: disjoint, in order; and which passages stand there."""

    def __init__(self) -> None:
        self.found: dict[int, list[_Fit]] = {}
        self._fits: list[tuple[int, int, _Fit]] = []

    def choose(self, fits: Sequence[_Fit], *, by: Callable[[_Fit], int]) -> None:
        """Take the best of the fits that are free: of passages without a place, one each."""
        free = [fit for fit in fits if fit.passage not in self.found and self._is_free(fit)]
        for fit in _best_row(free, by):
            if fit.passage not in self.found:
                insort(self._fits, (fit.start, fit.end, fit), key=lambda entry: entry[0])
                self.found[fit.passage] = [fit]

    def share(self, fits: Sequence[_Fit]) -> None:
        """Passages without a place share those of others among the fits that they fit exactly."""
        among = set(fits)
        places = {(start, end) for start, end, fit in self._fits if fit in among}
        without = [fit for fit in fits if fit.passage not in self.found and (fit.start, fit.end) in places]
        for fit in without:
            self.found.setdefault(fit.passage, []).append(fit)

    def share_tiled(self, fits: Sequence[_Fit]) -> None:
        """Passages without a place share one that they make up together: nobody takes a place by copying several."""
        starts = [start for start, _, _ in self._fits]
        inside: dict[int, list[_Fit]] = {}
        for fit in fits:
            at = bisect_right(starts, fit.start) - 1
            if fit.passage not in self.found and at >= 0 and fit.end <= self._fits[at][1]:
                inside.setdefault(at, []).append(fit)
        for at, tiles in inside.items():
            row = _best_row(tiles, lambda fit: fit.start)
            if sum(fit.size for fit in row) == self._fits[at][2].size:
                for fit in row:
                    self.found.setdefault(fit.passage, []).append(fit)

    def _is_free(self, fit: _Fit) -> bool:
        at = bisect_left(self._fits, fit.end, key=lambda entry: entry[0])
        return at == 0 or self._fits[at - 1][1] <= fit.start


def _best_row(fits: Sequence[_Fit], by: Callable[[_Fit], int]) -> list[_Fit]:
    """The disjoint fits, one behind the other and rising in ``by``, that explain most; of equal ones, the fewest."""
    if len(fits) < 2:
        return list(fits)
    ranks = {value: n for n, value in enumerate(sorted({by(fit) for fit in fits}), start=1)}
    nothing = (0, 0, 1)  # size, minus how many, minus the index of the last
    best = [nothing] * (len(ranks) + 1)  # a Fenwick tree: the best row whose last rank is at most this

    def up_to(rank: int) -> tuple[int, int, int]:
        found = nothing
        while rank > 0:
            found, rank = max(found, best[rank]), rank - (rank & -rank)
        return found

    order = sorted(range(len(fits)), key=lambda n: fits[n].start)
    ended = sorted(order, key=lambda n: fits[n].end)
    scores, before, done = [nothing] * len(fits), [-1] * len(fits), 0
    for n in order:
        while fits[ended[done]].end <= fits[n].start:
            rank = ranks[by(fits[ended[done]])]
            while rank < len(best):
                best[rank], rank = max(best[rank], scores[ended[done]]), rank + (rank & -rank)
            done += 1
        size, fewer, last = up_to(ranks[by(fits[n])] - 1)
        scores[n], before[n] = (size + fits[n].size, fewer - 1, -n), -last
    at, row = -max(scores)[2], []
    while at >= 0:
        row.append(fits[at])
        at = before[at]
    return row[::-1]


def _certain(found: Mapping[int, Sequence[_Fit]], fits: Iterable[_Fit], text: str) -> set[int]:
    """The passages that can stand nowhere but at places of passages that are themselves certain."""
    possible: dict[int, list[_Fit]] = {i: [] for i in found}
    for fit in fits:
        if fit.passage in possible:
            possible[fit.passage].append(fit)
    letters = bytes(map(str.isalnum, text))
    unexplained = bytearray(letters)
    for fit in (fit for own in found.values() for fit in own):
        unexplained[fit.start : fit.end] = bytes(fit.end - fit.start)
    while True:
        unsure = [i for i, own in possible.items() if any(unexplained.find(1, f.start, f.end) >= 0 for f in own)]
        if not unsure:
            return set(possible)
        for i in unsure:
            del possible[i]
            for fit in found[i]:
                unexplained[fit.start : fit.end] = letters[fit.start : fit.end]


def _whole_fits(passages: Sequence[Squeezed], text: str) -> Iterator[_Fit]:
    starts: dict[str, list[int]] = {}
    for i, passage in enumerate(passages):
        length = len(passage.text)
        if passage.text not in starts:
            starts[passage.text] = [at for at in _occurrences(text, passage.text) if _ends_words(text, at, at + length)]
        for start in starts[passage.text]:
            yield _Fit(i, start, start + length, 0, passage.size)


def _part_fits(i: int, passage: str, text: str, least: int) -> Iterator[_Fit]:
    """Parts of a passage that end, and begin, at its own borders or where a cut shows."""
    if len(passage) < least or len(text) < least:
        return
    for start in _occurrences(text, passage[:least]):
        length = _common(passage, 0, text, start)
        ends = start + length == len(text)
        if not ends:  # the passage may go on with a dot where a mark begins
            cuts = (n for n in range(length, max(least, length - 3) - 1, -1) if _CUT.match(text, start + n))
            length = next(cuts, 0)
        if length and _ends_words(text, start, len(text)):
            yield _fit(i, text, start, 0, length)
        if ends:
            break
    for offset in _occurrences(passage, text[:least]):
        length = _common(passage, offset, text, 0)
        ends = offset + length == len(passage) and _ends_words(text, 0, length)
        if offset > 0 and (ends or length == len(text)):
            yield _fit(i, text, 0, offset, length)
            break


def _fit(i: int, text: str, start: int, offset: int, length: int) -> _Fit:
    return _Fit(i, start, start + length, offset, sum(map(str.isalnum, text[start : start + length])))


def _occurrences(text: str, needle: str) -> Iterator[int]:
    """Where it begins. Of very many, those that overlap the one before are left out."""
    at, found = text.find(needle) if any(map(str.isalnum, needle)) else -1, 0
    while at >= 0:
        yield at
        found += 1
        at = text.find(needle, at + (1 if found < _MANY else len(needle)))


def _common(one: str, i: int, other: str, j: int) -> int:
    """How many characters are alike from there on."""
    length, step = 0, 64
    while True:
        a, b = one[i + length : i + length + step], other[j + length : j + length + step]
        if a == b and len(a) == step:
            length, step = length + step, 2 * step
        elif step > 64:
            step = 64  # it differs, or ends, within this stretch
        else:
            return length + next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _ends_words(text: str, start: int, end: int) -> bool:
    """Whether no word is known to continue across either border, as in a short passage "art" inside "party"."""
    before, after = text[max(0, start - 1) : start + 1], text[max(0, end - 1) : end + 1]
    return not any(len(pair) == 2 and pair.isalnum() and not UNSPACED.search(pair) for pair in (before, after))
