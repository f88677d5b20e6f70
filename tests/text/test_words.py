"""Words for comparison, and what a passage refuses."""

import math

import pytest

from seka_rag.errors import DocumentError
from seka_rag.text.passages import Passage
from seka_rag.text.words import words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("Ada's cat, 2nd-best; don\u2019t!", ["ada", "cat", "2nd", "best", "don't"]),
        ("ﬁle STRASSE straße", ["file", "strasse", "strasse"]),
        ("snake_case x", ["snake", "case", "x"]),
        ("東京 tower", ["東", "京", "tower"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("cafe\u0301", ["café"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize("bad", [{"text": 3}, {"text": "a", "score": math.nan}, {"text": "a", "score": math.inf}])
def test_passage_refuses(bad: dict) -> None:
    with pytest.raises(DocumentError):
        Passage(**bad)


def test_passage_is_hashable_and_positional() -> None:
    assert Passage("a", 1.0, "s", {"k": [1]}).metadata == {"k": [1]}
    assert len({Passage("a"), Passage("a")}) == 1


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("Chil\u00addren tra\u00advel free", "Children travel free"),  # soft hyphens
        ("Chil\u00ad\ndren", "Children"),
        ("Chil\u200bdren tra\u2060vel\ufeff", "Children travel"),  # zero-width characters
        ("ti\u200dck\u200cet \u202eprice\u202c", "ticket price"),
        ("of\ufb01ce \ufb02oor e\ufb00ort", "office floor effort"),  # ligatures
        ("cafe\u0301", "café"),
        ("مُحَمَّدٌ", "محمد"),  # vowel points
        ("كتـــاب", "كتاب"),  # a stretched word
        ("\ufedb\ufe98\ufe8e\ufe8f", "كتاب"),  # letters as an old PDF has them
        ("שָׁלוֹם", "שלום"),
        ("می\u200cخواهم", "میخواهم"),
        ("น้ํา", "น้ำ"),  # two ways of typing one vowel
        ("\uff46\uff55\uff4c\uff4c", "full"),
    ],
)
def test_how_words_are_set_does_not_count(written, plain):
    assert words(written) == words(plain)


@pytest.mark.parametrize("hyphen", ["-", "\u2010", "\u2011"])
def test_a_hyphen_at_the_end_of_a_line_is_read_both_ways(hyphen):
    assert words(f"All chil{hyphen}\n  dren pay.") == ["all", "children", "chil", "dren", "pay"]
    assert {"well", "known"} < set(words(f"well{hyphen}\nknown"))
    assert words(f"well{hyphen}known") == ["well", "known"]


def test_thai_words_meet_inside_a_phrase():
    """No spaces part them, and vowels and tones above and below belong to their letter."""
    text, question = set(words("เด็กเดินทางฟรีในวันอาทิตย์")), words("เด็กเดินทางฟรีไหม")
    shared = [word for word in question if word in text]
    assert len(shared) >= 0.75 * len(question)
    assert not set(words("แมวนอนหลับ")) & set(question)
    assert words("ก") == ["ก"]


def test_marks_never_cut_a_word():
    for word in ("हिन्दी", "தமிழ்", "ελληνικά", "ᠮᠣᠩᠭᠣᠯ", "ქართული"):
        assert len(words(word)) == 1


@pytest.mark.timeout(120)  # less than a second; quadratic, it would be an hour
@pytest.mark.parametrize("text", ["a-\n", "-\n", "- ", "a", "\u0e01", "\u00ad ", "'a", "\u0301", "日", "a\0"])
def test_any_text_takes_linear_time(text):
    assert words(text * 100_000) is not None
