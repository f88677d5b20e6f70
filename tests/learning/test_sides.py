"""Facts that are measured and facts that are trained on: no subject on both sides, however few there are."""

import pytest

from seka_rag.errors import LearningError, RecordError
from seka_rag.learning.sides import Sides, subject_of
from seka_rag.questions.facts import Fact, load_facts
from seka_rag.questions.kinds import questions

DEVELOPMENT = [fact for fact in load_facts() if fact.split == "development"]
EVERY = {fact.id for fact in DEVELOPMENT}
KINDS = ("conflict", "irrelevant")


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("known", [DEVELOPMENT, DEVELOPMENT[::3], DEVELOPMENT[:24]])
def test_no_subject_is_on_both_sides(known, seed):
    sides = Sides.of(known, EVERY, 64, seed)
    assert not {subject_of(f) for f in sides.measured} & {subject_of(f) for f in sides.training}
    assert not {f.subject for f in sides.measured} & {f.subject for f in sides.training}
    assert len(sides.measured) == min(64, len(known) // 2)
    assert len(set(sides.measured)) == len(sides.measured)
    assert Sides.of(known, EVERY, 64, seed) == sides


def test_only_facts_that_the_model_answers_are_measured():
    recalled = {fact.id for fact in DEVELOPMENT[::2]}
    sides = Sides.of(DEVELOPMENT, recalled, 64, 0)
    assert len(sides.measured) == 64
    assert {fact.id for fact in sides.measured} <= recalled
    assert {fact.id for fact in sides.training} & recalled
    assert {fact.id for fact in sides.training} - recalled
    assert not {subject_of(f) for f in sides.measured} & {subject_of(f) for f in sides.training}
    few = Sides.of(DEVELOPMENT, {fact.id for fact in DEVELOPMENT[:30]}, 64, 0)
    assert set(few.measured) == set(DEVELOPMENT[:30])
    assert len(Sides.of(DEVELOPMENT, recalled, 8, 0).measured) == 8  # fewer than must be answered may be asked for
    with pytest.raises(LearningError, match=r"it answers 5 in two of three wordings, and calibration needs 12"):
        Sides.of(DEVELOPMENT, {fact.id for fact in DEVELOPMENT[:5]}, 64, 0)


@pytest.mark.parametrize("count", [100, 64, 40])
def test_several_facts_of_a_subject_leave_enough_for_training(count):
    """A measured subject takes its unanswered facts out of training: 40 subjects of 5 facts, of which 2 are answered."""
    known = [DEVELOPMENT[0].model_copy(update={"id": str(i), "group": f"group {i // 5}"}) for i in range(200)]
    sides = Sides.of(known, {fact.id for fact in known if int(fact.id) % 5 < 2}, count, 0)
    assert len(sides.training) >= 66
    assert len(sides.measured) == min(count, 2 * 26)  # a subject more would leave 65
    assert not {subject_of(f) for f in sides.measured} & {subject_of(f) for f in sides.training}


def test_each_measured_fact_is_asked_once_and_training_asks_of_none():
    sides = Sides.of(DEVELOPMENT, EVERY, 64, 0)
    for kind in KINDS:
        measured = sides.measured_records(kind, 0)
        training = sides.training_records(kind, 264, 0)
        assert sorted(r.meta["fact"] for r in measured) == sorted(f.id for f in sides.measured)
        assert not {r.meta["fact"] for r in measured} & {r.meta["fact"] for r in training}
        assert len({r.meta["fact"] for r in training}) > len(sides.measured)
        groups = {f.id: subject_of(f) for f in DEVELOPMENT}
        assert not {groups[r.meta["fact"]] for r in measured} & {groups[r.meta["fact"]] for r in training}


def test_no_passage_of_training_states_a_measured_fact():
    sides = Sides.of(DEVELOPMENT, EVERY, 64, 0)
    told = [f.statement(i, f.answers[0]) for f in sides.measured for i in range(len(f.statements))]
    of = lambda records: [t for t in told for r in records for p in r.passages if t in p]  # noqa: E731
    for kind in KINDS:
        assert not of(sides.training_records(kind, 264, 0))
        assert of(questions(kind, "development", 264, 0, facts=sides.training, passages=(3, 4)))  # without ``others``


def test_too_few_facts_or_too_few_subjects():
    with pytest.raises(LearningError, match="23 known facts about .* calibration needs 24"):
        Sides.of(DEVELOPMENT[:23], EVERY, 64, 0)
    one = [Fact(**{**f.model_dump(), "group": "the same"}) for f in DEVELOPMENT[:60]]
    with pytest.raises(
        LearningError, match="60 known facts about 1 subjects, 60 of them answered.*only 0 can be measured"
    ):
        Sides.of(one, EVERY, 64, 0)
    with pytest.raises(RecordError, match="others: 1 facts are development"):
        questions("conflict", "development", 2, passages=(3, 3), others=DEVELOPMENT[:1])
