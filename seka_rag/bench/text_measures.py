"""Measures of a generated text by itself: how long it is, how much it repeats, how varied it is."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from seka_rag.text.words import words

_WORD = re.compile(r"\w+")
_SUBJECTS = frozenset({"she", "he"})
_PRONOUNS = _SUBJECTS | {"her", "him", "hers", "his", "herself", "himself"}
_PLURAL = frozenset({"they", "them", "their", "theirs", "themselves"})


def entropy(text: str) -> float:
    """The fluency of Zhang et al. (2018) and ROME: (2/3 H2 + 4/3 H3) / 2, entropies of word n-grams in bits.

    >>> entropy("a b c d")  # three 2-grams, two 3-grams, all different
    1.1949875002403854
    """
    tokens = words(text)
    return (2 / 3 * _bits(_grams(tokens, 2)) + 4 / 3 * _bits(_grams(tokens, 3))) / 2


def length(text: str) -> int:
    """Words of a text, separated by white space."""
    return len(text.split())


def pronouns_changed(original: str, text: str, *, every: bool) -> float:
    """How far a text is the original without its pronouns of one person, between 0 and 1.

    The share of the original's pronouns that are gone (1 if it has none), times the share of its other words, each
    counted once, that the text has too.

    Args:
        every: whether her, him, hers, his, herself and himself count as well as she and he.

    >>> pronouns_changed("She reads. She sleeps.", "They read. She sleeps.", every=False)  # 1 of 2; 1 of 2 words
    0.25
    """
    before, after = (_WORD.findall(t.lower()) for t in (original, text))
    pronouns = _PRONOUNS if every else _SUBJECTS
    there, left = (sum(word in pronouns for word in some) for some in (before, after))
    gone = max(0, there - left) / there if there else 1.0
    kept, of = ({word for word in some if word not in _PRONOUNS | _PLURAL} for some in (after, before))
    return gone * len(kept & of) / len(of) if of else 0.0


def _grams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(tokens[i:] for i in range(n)), strict=False))


def _bits(grams: Sequence[tuple[str, ...]]) -> float:
    return -sum(c / len(grams) * math.log2(c / len(grams)) for c in Counter(grams).values()) if grams else 0.0
