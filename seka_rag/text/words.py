"""Words of a text for lexical comparison: case, ligatures and possessives do not count."""

from __future__ import annotations

import re
import unicodedata

# Scripts written without spaces give one word per character; runs of them would never match anything else.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# Vowel signs and other marks belong to their word, though they are not letters to `re`.
_MARKS = "\u0300-\u036f\u0591-\u05bd\u0610-\u061a\u064b-\u065f\u0900-\u0963\u0966-\u0dff"
_LETTER = rf"(?:(?![{_UNSPACED}])(?:[^\W_]|[{_MARKS}]))"
_WORD = re.compile(rf"[{_UNSPACED}]|{_LETTER}+(?:'{_LETTER}+)*")

#: English words that say nothing about a topic.
STOPWORDS = frozenset(
    """a about after again all also am an and any are as at be because been before being between both but by can could
    did do does doing don't down each every few for from further had has have having he her here hers him his how i if
    in into is it its itself just like many may me might more most much must my no nor not now of off on once one only
    or other our out over own please same shall she should so some such tell than that the their them then there these
    they this those through to too under until up upon us very was we were what when where which while who whom whose
    why will with would you your""".split()
)


def words(text: str) -> list[str]:
    """The words of a text in order, case-folded, compatibility forms unified (``ﬁ`` is ``fi``), without ``'s``.

    >>> words("Ada's 2nd ﬁle, naïve")
    ['ada', '2nd', 'file', 'naïve']
    """
    folded = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    return [word.removesuffix("'s") for word in _WORD.findall(folded)]
