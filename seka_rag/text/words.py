"""Words of a text for lexical comparison: how they are set, hyphenated, joined or vocalised does not count."""

from __future__ import annotations

import itertools
import re
import unicodedata
from functools import cache

# Scripts written without spaces give one word per character; runs of them would never match anything else.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# Thai, Lao, Burmese and Khmer as well, but one letter says too little there: each two neighbours.
_PAIRED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
#: A character of these scripts, in which words end anywhere.
UNSPACED = re.compile(f"[{_UNSPACED}{_PAIRED}]")
#: Characters without a shape: zero-width spaces and joiners, marks of direction, variants, tags.
UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)
# Vowel points of Arabic and Hebrew, which most texts leave out, and the stroke that stretches Arabic words.
_POINTS = re.compile(
    "[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8"
    "\u06ea-\u06ed]"
)
_SOFT_HYPHEN_AT_LINE_END = re.compile(r"\u00ad[^\S\n]*\n[^\S\n]*")
_HYPHEN_AT_LINE_END = re.compile(r"(?<=\w)[-\u2010][^\S\n]*\n[^\S\n]*(?=\w)")
_PARTED = "\0"  # stands for it inside a word

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

    Characters without a shape and vowel points are left out. Of a word that a hyphen parts at a line's end, both readings
    are given: as one word, and as its two parts.

    >>> words("Ada's 2nd ﬁle, naïve")
    ['ada', '2nd', 'file', 'naïve']
    >>> words("tra\u00advel free, home-\\nland")
    ['travel', 'free', 'homeland', 'home', 'land']
    """
    folded = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'").replace(_PARTED, " ")
    folded = UNSEEN.sub("", _SOFT_HYPHEN_AT_LINE_END.sub("", folded))
    folded = _HYPHEN_AT_LINE_END.sub(_PARTED, _POINTS.sub("", folded))
    word, letter = _patterns()
    found: list[str] = []
    for match in word.finditer(folded):
        if match["paired"]:
            letters = letter.findall(match["paired"])
            found += map("".join, itertools.pairwise(letters)) if len(letters) > 1 else letters
        else:
            parts = match.group().removesuffix("'s").split(_PARTED)
            found += ["".join(parts), *parts] if len(parts) > 1 else parts
    return found


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Of a word, and of a letter with its marks: accents and vowel signs belong to it, though ``re`` does not say so."""
    marks = "".join(chr(i) for i in range(0x300, 0xAC00) if unicodedata.category(chr(i))[0] == "M")
    letter = rf"(?:(?![{_UNSPACED}{_PAIRED}])(?:[^\W_]|[{marks}]))"
    paired = rf"(?:(?=[{_PAIRED}])(?:[^\W_]|[{marks}]))+"
    word = rf"(?P<paired>{paired})|[{_UNSPACED}]|{letter}+(?:['{_PARTED}]{letter}+)*"
    return re.compile(word), re.compile(rf"[^{marks}][{marks}]*|[{marks}]+")
