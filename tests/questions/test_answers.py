"""Answers are compared as a reader would compare them."""

import pytest

from seka_rag.questions.answers import ABSTENTIONS, abstains, contains_answer, follows, normalise


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Café's 1,000 fans!", "cafes 1000 fans"),
        ("J.K. Rowling", "j k rowling"),
        ("  Brontë —\n Wuthering   HEIGHTS ", "bronte wuthering heights"),
        ("Łódź, Malmö, Ærø, Straße", "lodz malmo aero strasse"),
        ("twenty-four", "twenty four"),
        ("O\u2019Brien's", "obriens"),
        ("14:30", "14 30"),
        ("1,00 and 12,345,678", "1 00 and 12345678"),
        ("the a an", ""),
        ("", ""),
    ],
)
def test_normalise(text, normal):
    assert normalise(text) == normal


@pytest.mark.parametrize(
    ("text", "answers", "found"),
    [
        ("The capital is Paris.", ["Paris"], True),
        ("paris", ["Paris"], True),
        ("It is comparison.", ["Paris"], False),
        ("Parisian food", ["Paris"], False),
        ("The author is the great J. R. R. Tolkien", ["JRR Tolkien", "Tolkien"], True),
        ("a 24-hour day", ["24"], True),
        ("240 hours", ["24"], False),
        ("in New York City", ["New York"], True),
        ("new, York", ["New York"], True),
        ("Bogota", ["Bogotá"], True),
        ("anything", [], False),
        ("the", ["the"], False),
        ("what?", ["?"], False),
        ("", ["Paris"], False),
    ],
)
def test_contains_answer_on_word_borders(text, answers, found):
    assert contains_answer(text, answers) is found


def test_follows_the_evidence_and_not_memory():
    assert follows("It is Lyon.", ["Lyon"], ["Paris"])
    assert not follows("It is Paris.", ["Lyon"], ["Paris"])
    assert not follows("It is Lyon, formerly Paris.", ["Lyon"], ["Paris"])
    assert not follows("It is Nice.", ["Lyon"], ["Paris"])
    assert follows("Kiev", ["Kyiv", "Kiev"], ["Kyiv", "Kiev"])  # they agree
    assert follows("the Wright brothers", ["the Wright brothers"], ["Wright"])  # memory's answer is part of it
    assert not follows("Lyon and Wright", ["Lyon"], ["the", "Wright"])


ABSTAINING = [
    "The passage does not say when it closes.",
    "It isn't mentioned in the text.",
    "It isn\u2019t stated.",
    "I don't know.",
    "I'm not sure.",
    "There is no information about the fee.",
    "The context doesn't explicitly mention the captain.",
    "It cannot be determined from the passages.",
    "The name is not provided in the given passages.",
    "The passages given here do not contain it.",
    "There is not enough context to tell.",
    "The documents lack details.",
    "I am unable to answer.",
    "It is impossible to say.",
    "Her name is unknown.",
    "Unknown",
    "Not specified.",
    "No details on this are given.",
    "The text gives no such details.",
]
ANSWERING = [
    "Paris.",
    "The canteen does not close on Fridays.",
    "He did not give up.",
    "Lunch is not included.",
    "The museum has no entrance fee.",
    "The captain does not answer letters.",
    "No dogs are allowed.",
    "",
]


def test_abstention():
    assert [text for text in ABSTAINING if not abstains(text)] == []
    assert [text for text in ANSWERING if abstains(text)] == []


def test_every_rule_is_needed(monkeypatch):
    """Each pattern is the only one for at least one of the texts above."""
    import re

    for pattern in ABSTENTIONS:
        rest = re.compile("|".join(p for p in ABSTENTIONS if p != pattern))
        monkeypatch.setattr("seka_rag.questions.answers._ABSTENTION", rest)
        assert any(not abstains(text) for text in ABSTAINING), pattern
