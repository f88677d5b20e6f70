"""The facts that come with the library: every line is what it should be, and both sides of the split are apart."""

import json
from collections import Counter, defaultdict

import pytest

from seka_rag.errors import RecordError
from seka_rag.questions.answers import contains_answer, normalise
from seka_rag.questions.facts import SPLITS, Fact, load_facts, read_facts
from seka_rag.questions.passages import load_styles
from seka_rag.questions.pen import shared_words

FACTS = load_facts()
FRANCE = {
    "id": "capital-france",
    "category": "capital",
    "topic": "country",
    "subject": "France",
    "answers": ["Paris"],
    "alternatives": [["Lyon"], ["Nice"], ["Lille"]],
    "questions": ["What is the capital of France?", "Which city is it in France?", "Where does France have it?"],
    "cloze": "The capital of France is",
    "statements": ["the capital of France is {answer}", "{answer} is where France is governed"],
}


def test_there_are_enough():
    assert len(FACTS) >= 450
    assert len({fact.category for fact in FACTS}) >= 30
    assert all(count >= 200 for count in Counter(fact.split for fact in FACTS).values())


def test_well_known_facts_are_right():
    found = {fact.id: fact.answers[0] for fact in FACTS}
    assert found["capital-australia"] == "Canberra"
    assert found["symbol-tin"] == "Sn"
    assert found["author-moby-dick"] == "Herman Melville"
    assert found["number-chessboard-squares"] == "64"
    assert found["river-vienna"] == "Danube"


@pytest.mark.parametrize("category", sorted({fact.category for fact in FACTS}))
def test_every_fact_of(category):
    topics = set(load_styles().fillers)
    for fact in (f for f in FACTS if f.category == category):
        assert fact.topic in topics, fact.id
        assert len(set(fact.questions)) == len(fact.questions) >= 4, fact.id
        assert len(fact.alternatives) >= 4, fact.id
        assert all(q.endswith("?") and q[0].isupper() and "  " not in q for q in fact.questions), fact.id
        assert not any(s.endswith(".") or "  " in s or "{s}" in s for s in fact.statements), fact.id
        first = [normalise(names[0]) for names in fact.alternatives]
        assert len(set(first)) == len(first), fact.id
        for names in fact.alternatives:  # a question must not offer the false answer either
            assert not any(contains_answer(text, names) for text in (*fact.questions, fact.cloze)), (fact.id, names)
        pairs = {bool(shared_words(q, s, fact.questions)) for q in fact.questions for s in fact.statements}
        assert pairs == {True, False}, fact.id  # both in the words of a statement and in others


def test_one_question_has_one_fact():
    asked = Counter(normalise(q) for fact in FACTS for q in fact.questions)
    assert [q for q, count in asked.items() if count > 1] == []


def test_what_is_known_of_a_subject_is_on_one_side():
    sides = defaultdict(set)
    for fact in FACTS:
        sides[normalise(fact.group or fact.subject)].add(fact.split)
    assert all(len(found) == 1 for found in sides.values())
    by_id = {fact.id: fact for fact in FACTS}
    assert by_id["symbol-gold"].split == by_id["element-au"].split  # the same relation, the other way round
    assert by_id["capital-japan"].split == by_id["language-japan"].split == by_id["currency-japan"].split


def test_a_split_does_not_depend_on_the_machine():
    assert Fact.model_validate(FRANCE).split == "development"
    assert {name: Fact.model_validate({**FRANCE, "subject": name}).split for name in ("Peru", "the Peru", "PERU")} == {
        "Peru": "held-out", "the Peru": "held-out", "PERU": "held-out"
    }  # fmt: skip
    assert Fact.model_validate({**FRANCE, "subject": "Paris", "group": "Peru"}).split == "held-out"
    assert SPLITS == ("development", "held-out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"statements": ["it is {answer}", "it is so"]}, "statements: 'it is so' must hold {answer} once"),
        ({"statements": ["{answer} is {answer}", "it is {answer}"]}, "must hold {answer} once"),
        ({"answers": []}, "answers: "),
        ({"answers": ["The"]}, "only an article"),
        ({"questions": ["Is it Paris?", "Is it?", "Is it not?"]}, "gives the answer away"),
        ({"questions": ["Is it?"]}, "questions: "),
        ({"cloze": "Paris is"}, "gives the answer away"),
        ({"alternatives": [["Lyon"], ["paris"], ["Nice"]]}, "alternatives: 'paris'"),
        ({"alternatives": [["Lyon"], ["Port Paris"], ["Nice"]]}, "alternatives: 'Port Paris'"),
        ({"alternatives": ["Lyon", "Nice", "Lille"]}, "alternatives.0"),
        ({"colour": "blue"}, "colour: "),
        ({"id": ""}, "id: "),
    ],
)
def test_a_wrong_fact_is_named_with_line_and_field(tmp_path, change, message):
    path = tmp_path / "facts.jsonl"
    path.write_text(json.dumps(FRANCE) + "\n\n" + json.dumps({**FRANCE, "id": "other", **change}) + "\n")
    with pytest.raises(RecordError) as caught:
        read_facts(path)
    assert f"{path}, line 3, " in str(caught.value)
    assert message in str(caught.value)


def test_a_fact_states_any_answer():
    fact = Fact.model_validate(FRANCE)
    assert fact.statement(0, "Lyon") == "the capital of France is Lyon"
    assert fact.statement(1, "Paris") == "Paris is where France is governed"
