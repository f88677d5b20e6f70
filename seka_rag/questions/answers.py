"""Whether a generated answer says what it should: normalised words, what it follows, whether it abstains or repeats itself."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable

from seka_rag.text.words import words

#: Letters that no decomposition turns into plain ones.
_LETTERS = str.maketrans({"ł": "l", "ø": "o", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "\u0131": "i"})
_ARTICLES = frozenset({"a", "an", "the"})
_DIGIT_COMMA = re.compile(r"(?<=\d),(?=\d{3}\b)")
_APOSTROPHE = re.compile(r"['\u2019\u2018`\u00b4]")
_WORD = re.compile(r"[^\W_]+")

_SOURCE = (
    r"(?:passages?|texts?|contexts?|documents?|sources?|articles?|excerpts?|paragraphs?|information|records?|minutes|"
    r"notes?|memos?|letters?|handbook|entry|entries|posts?|statements?)"
)
_NOT = r"(?: not|n't) (?:\w+ ){0,2}?"
#: An answer abstains if one of these patterns occurs in it, in lower case and with straight apostrophes. Each says that
#: the text, or the model, lacks the answer. "Lunch is not included" is an answer, "I can't help with that" a refusal.
ABSTENTIONS: tuple[str, ...] = (
    rf"\b{_SOURCE} (?:\w+ ){{0,3}}?(?:do|does|did){_NOT}(?:provide|contain|include|give|tell|answer|reveal|describe|list)",
    rf"\b(?:do|does|did){_NOT}(?:say|state|mention|specify|indicate|disclose)\b",
    rf"\b(?:is|are|was|were){_NOT}(?:said|stated|mentioned|specified|indicated|disclosed|known|clear)\b",
    rf"\b(?:is|are|was|were){_NOT}(?:provided|contained|included|given|answered|described|listed|available|found) "
    rf"(?:in|by|from) (?:\w+ ){{0,2}}?{_SOURCE}\b",
    r"\b(?:there is|there's|has|have|contains?|gives?|provides?) no (?:\w+ ){0,2}?"
    r"(?:information|mention|details?|answer|data)\b",
    r"\bno (?:\w+ )?(?:information|mention|details?) (?:\w+ )?(?:about|on|of|regarding|concerning|in)\b",
    r"\b(?:not|n't) (?:\w+ )?enough (?:information|details?|context|data)\b",
    r"\b(?:insufficient|lack of|lacks?) (?:\w+ ){0,2}?(?:information|details?|context|data)\b",
    r"\b(?:can|could)(?: ?not|n't|'t) (?:be )?(?:determined?|answer(?:ed)?|tell|say|know|inferred|infer)\b",
    r"\bunable to (?:determine|answer|find|tell|say|provide)\b",
    r"\b(?:i|we)(?: am|'m| are|'re) not (?:sure|certain|aware)\b",
    r"\b(?:i|we) (?:do not|don't) (?:know|have)\b",
    r"\bimpossible to (?:determine|answer|tell|say|know)\b",
    r"\b(?:is|are|remains?) (?:unknown|unspecified|unclear)\b",
    r"^(?:unknown|unspecified|not (?:stated|mentioned|specified|given|provided|known|available))\b",
)
_ABSTENTION = re.compile("|".join(ABSTENTIONS))


@functools.lru_cache(maxsize=8192)
def normalise(text: str) -> str:
    """Words in lower case, without accents, punctuation and articles, one space between them.

    >>> normalise("The Café's 1,000 (thousand) J.K. fans!")
    'cafes 1000 thousand j k fans'
    """
    bare = _APOSTROPHE.sub("", _DIGIT_COMMA.sub("", text)).casefold().translate(_LETTERS)
    plain = "".join(c for c in unicodedata.normalize("NFKD", bare) if not unicodedata.combining(c))
    return " ".join(word for word in _WORD.findall(plain) if word not in _ARTICLES)


def contains_answer(text: str, answers: Iterable[str]) -> bool:
    """Whether one of the answers occurs in the text, as whole words, after normalising both.

    An answer of which nothing is left after normalising ("the", "?") never occurs.
    """
    padded = f" {normalise(text)} "
    return any(f" {answer} " in padded for answer in map(normalise, answers) if answer)


def follows(text: str, evidence: Iterable[str], remembered: Iterable[str] = ()) -> bool:
    """Whether an answer says what the evidence says and not what memory says.

    A remembered answer that the evidence gives as well (an alias, a part of it) is not held against the text.
    """
    evidence = tuple(evidence)
    against = [other for other in remembered if not any(contains_answer(e, [other]) for e in evidence)]
    return contains_answer(text, evidence) and not contains_answer(text, against)


def abstains(text: str) -> bool:
    """Whether an answer says that the answer is not there, by the patterns of ``ABSTENTIONS``."""
    return bool(_ABSTENTION.search(" ".join(_APOSTROPHE.sub("'", text).lower().split())))


def repetition(text: str) -> float:
    """Share of the word 3-grams that stood there before; 0 for a text of fewer than three words.

    >>> repetition("a b c a b c")
    0.25
    """
    tokens = words(text)
    grams = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
