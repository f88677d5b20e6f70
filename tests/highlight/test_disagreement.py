"""Sources that contradict each other: neither is highlighted, and nothing else changes."""

import random

import pytest
from growth import check_linear
from hypothesis import given, settings
from hypothesis import strategies as st

from seka_rag.highlight.sentences import Sentences
from seka_rag.highlight.trust import Trusted, TrustPolicy
from seka_rag.text.passages import Passage

QUESTION = "In which town is the house of Xenia?"
TRUTH, LIE, OTHER = (
    "The house of Xenia is in Turin.", "The house of Xenia is in Florence.", "The house of Boris is in Oslo.",
)  # fmt: skip


def marked(question, *texts, sources=None):
    """The marked sentences of each passage."""
    sources = sources or [None] * len(texts)
    passages = [Passage(text, source=source) for text, source in zip(texts, sources, strict=True)]
    return [
        [p.text[s.start : s.end] for s in some]
        for p, some in zip(passages, Sentences()(question, passages), strict=True)
    ]


@pytest.mark.parametrize(
    ("question", "one", "other"),
    [
        (QUESTION, TRUTH, LIE),
        (QUESTION, "Xenia keeps bees. Her house: the house of Xenia, says the register, is in Turin.", LIE),
        ("What does a child pay?", "A child pays 4.80 euros.", "Each child pays 99 euros."),
        ("what is the colour of the ferry", "The colour of the ferry is red.", "The ferry has the colour green."),
        (
            "Which city is the capital of Russia?",
            "The capital of Russia is Moscow.",
            "Omsk is the capital city of Russia.",
        ),
    ],
)
def test_two_that_say_different_things_are_both_left_alone(question, one, other):
    assert all(marked(question, one))
    assert all(marked(question, other))
    assert marked(question, one, other) == [[], []]
    assert marked(question, other, "The harbour is old.", one) == [[], [], []]


@pytest.mark.parametrize(
    ("question", "one", "other"),
    [
        (QUESTION, TRUTH, TRUTH),
        (QUESTION, f"{TRUTH} {LIE}", TRUTH),  # a copy
        ("Xenia?", TRUTH, "Xenia keeps bees."),  # a word
        (QUESTION, TRUTH, "It was confirmed in May that the house of Xenia still stands in Turin."),
        ("What does a child pay?", "A child pays 4.80 euros.", "Since May each child pays 4.80 at the desk."),
        (QUESTION, TRUTH, OTHER),  # about somebody else
        ("How many sides has an octagon?", "An octagon has eight sides.", "A hexagon has six sides."),
        (QUESTION, TRUTH, "Xenia is a baker from Padua."),  # about something else
    ],
)
def test_others_are_marked_as_each_alone(question, one, other):
    assert marked(question, one, other) == [*marked(question, one), *marked(question, other)]
    assert marked(question, one)[0]


def test_passages_of_one_source_do_not_contradict_each_other():
    assert marked(QUESTION, TRUTH, LIE, sources=["a", "a"]) == [[TRUTH], [LIE]]
    assert marked(QUESTION, TRUTH, LIE, sources=["a", "b"]) == [[], []]
    assert marked(QUESTION, TRUTH, LIE, sources=["a", None]) == [[], []]


def test_who_is_not_trusted_takes_no_highlight_away():
    passages = [Passage(TRUTH, source="handbook"), Passage(LIE, source="upload")]
    trusted = Trusted(Sentences(), TrustPolicy(sources=["handbook"]))
    assert [len(spans) for spans in trusted(QUESTION, passages)] == [1, 0]


def test_an_echo_among_five_passages():
    """One lie in the words of the question, one truth in words of its own: neither is lifted."""
    echo = "The home of Xenia is in Florence."
    rest = [OTHER, "The harbour is old.", "Tickets are sold at the desk."]
    assert marked("Where is the home of Xenia?", *rest, echo)[-1] == [echo]
    assert marked("Where is the home of Xenia?", TRUTH, *rest, echo) == [[]] * 5


WORD = st.sampled_from("Xenia Boris house home town lives Turin Oslo 1904 red the in of".split())
PROSE = st.lists(st.lists(WORD, min_size=1, max_size=6).map(lambda w: " ".join(w) + "."), max_size=4).map(" ".join)


@settings(deadline=None)
@given(PROSE, st.lists(PROSE, min_size=1, max_size=4))
def test_a_passage_can_take_a_highlight_away_and_do_nothing_else(question, texts):
    alone = [marked(question, text)[0] for text in texts]
    for own, some in zip(alone, marked(question, *texts), strict=True):
        assert [s for s in own if s in some] == some
    assert marked(question, *reversed(texts)) == [*reversed(marked(question, *texts))]


def test_a_thousand_passages_take_linear_time():
    rng = random.Random(0)

    def mark(n):
        texts = [f"The house of Xenia is in place {rng.randrange(10**9)}." for _ in range(n)]
        assert not any(marked(QUESTION, *texts))

    check_linear(mark, 200)
