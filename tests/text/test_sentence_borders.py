"""Sentence borders: known answers, and that sentences tile any text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seka_rag.text.sentences import paragraphs, sentences

TEXT = st.text(st.sampled_from("aB9 .!?\n\"')-#。é\u2028"), max_size=80) | st.text(max_size=80)


def cut(text: str) -> list[str]:
    return [text[s.start : s.end] for s in sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n ", []),
        ("One. Two!  Three?\nFour", ["One.", "Two!", "Three?", "Four"]),
        ("Mr. J. A. Smith came. He left.", ["Mr. J. A. Smith came.", "He left."]),
        ("The U.S. Army grew. In the U.S. The law is old.", ["The U.S. Army grew.", "In the U.S.", "The law is old."]),
        ("See Fig. 3 and No. 5. They differ.", ["See Fig. 3 and No. 5.", "They differ."]),
        ("Fruit, e.g. Apples, at 3.50 each. So did I. Then rain.", None),
        ('"Go!" he said. “Done.” She left.', ['"Go!" he said.', "“Done.”", "She left."]),
        ("Wait... what? Yes… Next.", ["Wait... what?", "Yes…", "Next."]),
        ("a line\nbroken in two. end", ["a line\nbroken in two. end"]),
        ("# Title\nText\n- one\n- two\n1. First. Second", ["# Title", "Text", "- one", "- two", "1. First.", "Second"]),
        ("no dot here\n\nnext paragraph", ["no dot here", "next paragraph"]),
        ("東京は首都です。人口は多い\uff01終わり", ["東京は首都です。", "人口は多い\uff01", "終わり"]),
        ("Élan vital. Über alles. ¿Qué? Nada.", ["Élan vital.", "Über alles.", "¿Qué?", "Nada."]),
    ],
)
def test_known_borders(text: str, expected: list[str] | None) -> None:
    if expected is None:
        expected = ["Fruit, e.g. Apples, at 3.50 each.", "So did I.", "Then rain."]
    assert cut(text) == expected


@given(TEXT)
def test_sentences_tile_the_text(text: str) -> None:
    last = 0
    for span in sentences(text):
        assert span.start >= last
        assert not text[last : span.start].strip()
        piece = text[span.start : span.end]
        assert piece == piece.strip() != ""
        last = span.end
    assert not text[last:].strip()


@given(TEXT)
def test_no_sentence_crosses_a_paragraph(text: str) -> None:
    own = paragraphs(text)
    assert all(any(p.start <= s.start and s.end <= p.end for p in own) for s in sentences(text))


@pytest.mark.timeout(120)  # a second; quadratic, it would be minutes
@pytest.mark.parametrize("text", ["." * 200_000 + "x", "1. " * 60_000, "\n" * 200_000, "J. " * 60_000, " " * 200_000])
def test_hostile_text_takes_linear_time(text: str) -> None:
    assert sentences(text) is not None
