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
