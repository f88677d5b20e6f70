"""Halves of surrogate pairs, as broken JSON and PDF files give them, are refused or mended, and never crash."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seka_rag import Passage, Prompt
from seka_rag.errors import TokenizationError
from seka_rag.text.surrogates import check_characters, mended

texts = st.text(st.characters() | st.sampled_from("\ud83d\ude00\udc80a"), max_size=20)


@given(texts)
def test_mended_text_can_be_written(text):
    done = mended(text)
    done.encode()
    check_characters(done)
    if all(not 0xD800 <= ord(c) < 0xE000 for c in text):
        assert done == text


def test_two_halves_become_one_character_and_a_lone_one_is_replaced():
    assert mended("a\ud83d\ude00b") == "a😀b"
    assert mended("port 8443 \ud83d") == "port 8443 \ufffd"
    assert mended("\ude00\ud83d") == "\ufffd\ufffd"
    assert Passage("x \ud83d").text == "x \ufffd"


def test_a_prompt_says_where_it_is():
    with pytest.raises(TokenizationError, match=r"character 10 of the text is half of a surrogate pair \(U\+D83D\)"):
        Prompt("port 8443 \ud83d")
    with pytest.raises(TokenizationError):
        Prompt("a") + "\udc80"


def test_no_door_crashes(steered):
    bad, messages = "port 8443 \ud83d", [{"role": "user", "content": "port 8443 \ud83d"}]
    tool = {"type": "function", "function": {"name": "look", "description": bad}}
    for call in (
        lambda: steered.generate(bad),
        lambda: steered.generate([bad, "a"]),
        lambda: steered.stream(bad).result,
        lambda: steered.chat(messages),
        lambda: steered.tokenize(bad),
        lambda: steered.tokenize_chat([{"role": "user", "content": "a"}], tools=[tool]),
        lambda: steered.prefill(bad),
    ):
        with pytest.raises(TokenizationError, match="surrogate pair"):
            call()
