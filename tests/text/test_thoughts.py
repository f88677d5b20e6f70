"""Thoughts before an answer: shown apart, never counted as the answer."""

from __future__ import annotations

from itertools import pairwise

import pytest

from seka_rag.hf.forms import AnswerForm
from seka_rag.text.thoughts import split_thoughts, visible_answer


@pytest.mark.parametrize(
    ("text", "opened", "thoughts", "answer"),
    [
        ("8443", False, None, "8443"),
        ("<think>\nA port?\n</think>\n\n8443", False, "A port?", "8443"),
        ("\n<think></think>8443", False, "", "8443"),
        ("<think>A port", False, "A port", ""),  # cut off
        ("A port?</think>\n8443", True, "A port?", "8443"),  # the prompt ends with the mark
        ("Write <think> in brackets", False, None, "Write <think> in brackets"),
    ],
)
def test_split(text, opened, thoughts, answer):
    assert split_thoughts(text, opened=opened) == (thoughts, answer)


@pytest.mark.parametrize("opened", [True, False])
def test_what_is_shown_of_a_stream_adds_up_to_the_answer(opened):
    text = f"{'' if opened else '<think>'}A port? <b>\n</think>\n\n8443, <think> or so"
    shown = [visible_answer(text[:n], opened=opened) for n in range(len(text) + 1)]
    assert all(later.startswith(earlier) for earlier, later in pairwise(shown))
    assert shown[-1] == "8443, <think> or so"


def test_of_a_form():
    form = AnswerForm(lambda ids: "", thinking="may")
    read = form.read("<think>A port?</think>8443")
    assert (read.content, read.thoughts) == ("8443", "A port?")
    assert AnswerForm(lambda ids: "").read("<think>x</think>y").content == "<think>x</think>y"
