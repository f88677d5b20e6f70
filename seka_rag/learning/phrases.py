"""Phrases of a sentence that carry information: names, numbers with units, rare words that look like nouns."""

from __future__ import annotations

import re
from collections.abc import Mapping

from seka_rag.text.spans import Span
from seka_rag.text.words import STOPWORDS, words

_CAPITALISED = r"[A-ZÀ-ÖØ-Þ][\w'-]*\w"
# "Bank of the West", "Ludwig van Beethoven": small words count only between two capitalised ones
_PART = rf"(?:[A-Z]\.[ \n]?)*{_CAPITALISED}"
_NAME = re.compile(rf"\b{_PART}(?:[ \n](?:(?:of|the|de|van|von|and)[ \n]){{0,2}}{_PART})*")
_UNITS = (
    "percent|per cent|million|billion|thousand|degrees?|years?|months?|weeks?|days?|hours?|minutes?|seconds?|miles?|"
    "feet|foot|inches|pounds?|dollars?|euros?|people|times|km|kilomet(?:er|re)s?|met(?:er|re)s?|cm|mm|kg|"
    "kilograms?|grams?|tons?|tonnes?|bytes?|bits?|[KMGT]B|MHz|GHz|Hz"
)
_NUMBER = re.compile(
    rf"(?<![\w.,:$€£-])[$€£]?\d+(?:[.,:]\d+)*(?:\s?%|[ \n](?:{_UNITS})(?:[ \n](?:{_UNITS}))?\b)?(?![\w])"
)
_NOUN = re.compile(r"\b(?:the|a|an|his|her|its|their|of|in|with|by)[ \n](?P<noun>[a-zß-öø-ÿ]{5,})(?=[ \n.,;:!?)])")
#: Endings that nouns seldom have.
_NOT_NOUN = ("ly", "ous", "ful", "ive", "able", "ible", "ing", "ed", "est", "ical", "less")
_RARE = 2  # passages


def informative_phrases(sentence: str, frequency: Mapping[str, int]) -> list[Span]:
    """Where a sentence has phrases worth asking for, without overlap, in order.

    Names of several capitalised words, numbers (with their units), and nouns that few passages use. A phrase that the
    sentence holds twice is left out: its question would give the answer away.

    Args:
        frequency: how many passages use each word.
    """
    found: list[Span] = []
    for start, end in [
        *_names(sentence),
        *_numbers(sentence),
        *_nouns(sentence, frequency),
    ]:
        phrase = sentence[start:end].casefold()
        if all(end <= s.start or start >= s.end for s in found) and sentence.casefold().count(phrase) == 1:
            found.append(Span(start, end))
    return sorted(found)


def _names(sentence: str) -> list[tuple[int, int]]:
    ranges = []
    for match in _NAME.finditer(sentence):
        start, end = match.span()
        # "The Royal Society", "When Ada Lovelace": a small word may owe its capital to the start of the sentence
        while (first := re.match(r"(\S+)\s", sentence[start:end])) and first[1].casefold() in STOPWORDS:
            start += first.end()
        if not re.search(r"\s", sentence[start:end]):
            continue
        if any(word not in STOPWORDS for word in words(sentence[start:end])):
            ranges.append((start, end))
    return ranges


def _numbers(sentence: str) -> list[tuple[int, int]]:
    # a lone digit is more often the number of a list, a sense or a footnote than a fact
    return [m.span() for m in _NUMBER.finditer(sentence) if len(m.group()) > 1]


def _nouns(sentence: str, frequency: Mapping[str, int]) -> list[tuple[int, int]]:
    return [
        match.span("noun")
        for match in _NOUN.finditer(sentence)
        if not (noun := match["noun"]).endswith(_NOT_NOUN)
        and noun not in STOPWORDS
        and 0 < frequency.get(noun, 0) <= _RARE
    ]
