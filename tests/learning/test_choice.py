"""The choice by generated answers: its rule on planted answers, and who is asked what."""

import copy
import json
import statistics

import pytest
from tiny import random_bank, tiny_model

from seka_rag import KeyBias, KeyScaling, KeyVector, Prism, Prompt, RandomProjection, Seka, SteeredModel
from seka_rag.bank.header import Trial
from seka_rag.errors import LearningError
from seka_rag.learning.answering import JUDGED, REPORTED, Answering, Answers
from seka_rag.learning.choice import Finalist, choose, error, gain, harm, record
from seka_rag.learning.finals import finalists, finals
from seka_rag.learning.resume import Steps
from seka_rag.learning.trials import Candidate
from seka_rag.questions.answers import repetition
from seka_rag.questions.kinds import questions
from seka_rag.questions.pairs import mean_difference

BANK = random_bank(tiny_model("llama"))
N = 100


def answers(right: list[bool], repeated: float = 0.0) -> Answers:
    return Answers(tuple(right), (repeated,) * len(right), (True,) * len(right))


def first(count: int, n: int = N) -> list[bool]:
    """The first so many right."""
    return [i < count for i in range(n)]


def by_kind(conflict=40, agreement=70, novel=50, irrelevant=40, repeated=0.0):
    rights = {"conflict": conflict, "agreement": agreement, "novel": novel, "irrelevant": irrelevant}
    return {kind: answers(r if isinstance(r, list) else first(r), repeated) for kind, r in rights.items()}


def finalist(by, disturbance: float) -> Finalist:
    method = KeyScaling(gain=disturbance)
    trial = Trial(steering=method.as_dict(), heads="h", examples=8, following=0, margin=0, disturbance=disturbance)
    return Finalist(Candidate(method, BANK, "h"), trial, by)


PLAIN = by_kind()


def test_the_gain_is_the_mean_over_kinds_and_its_error_is_paired():
    better = by_kind(conflict=80, agreement=90, novel=80, irrelevant=30)
    assert gain(PLAIN, better) == pytest.approx((0.4 + 0.2 + 0.3 - 0.1) / 4)
    moved = [1.0] * 20 + [0.0] * 80  # of two settings that differ in 20 conflicts and in nothing else
    expected = statistics.stdev(moved) / N**0.5 / 4
    assert error(by_kind(conflict=60), by_kind(conflict=80)) == pytest.approx(expected)
    assert error(by_kind(novel=60), by_kind(novel=80)) == pytest.approx(expected)
    assert mean_difference([0, 1, 0], [1, 1, 1]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    with pytest.raises(ValueError, match="no pairs"):
        mean_difference([], [])


def test_the_error_counts_a_fact_once_in_whatever_kinds_it_is_asked():
    few, many = (
        by_kind(conflict=n, agreement=n, irrelevant=n, novel=n) for n in (20, 40)
    )  # the same 20 facts in three kinds
    expected = statistics.stdev([1.0] * 20 + [0.0] * 80) / N**0.5 / 4
    assert error(few, many) == pytest.approx(expected * 10**0.5)  # 3 times as much in facts, once in what is novel
    opposite = by_kind(conflict=40, agreement=20, irrelevant=[i < 0 for i in range(N)], novel=20)
    assert error(few, opposite) == pytest.approx(statistics.stdev([-1.0] * 20 + [1.0] * 20 + [0.0] * 60) / N**0.5 / 4)
    about = [
        [r.meta["fact"] for r in questions(kind, "development", 9)] for kind in ("conflict", "agreement", "irrelevant")
    ]
    assert about[0] == about[1] == about[2]


def test_harm_needs_size_and_evidence():
    assert harm(PLAIN, by_kind(irrelevant=38)) is None  # 2 points, no more
    assert harm(PLAIN, by_kind(irrelevant=36)) is None  # 4 lost and none won: p = .125
    assert harm(PLAIN, by_kind(irrelevant=35)) == "irrelevant: 5% fewer right (p = 0.062)"
    swapped = [i < 30 or 90 <= i < 95 for i in range(N)]  # 10 lost, 5 won: 5 points, p = .3
    assert harm(PLAIN, by_kind(irrelevant=swapped)) is None
    assert "agreement: 10% fewer" in harm(PLAIN, by_kind(agreement=60))
    assert harm(PLAIN, by_kind(conflict=20, novel=20)) is None  # what steering is for counts in the gain
    assert harm(PLAIN, by_kind(repeated=0.02)) is None
    assert harm(PLAIN, by_kind(repeated=0.03)) == "repetition: +3.0%"
    rare = by_kind()
    rare["novel"] = Answers(rare["novel"].right, (1.0,) * 3 + (0.0,) * 97, rare["novel"].stopped)
    assert harm(PLAIN, rare) is None  # 0.75 points over all kinds


def test_chosen_is_the_least_disturbing_of_those_within_one_error_of_the_best():
    best = finalist(by_kind(conflict=90), 0.3)
    near = finalist(by_kind(conflict=89), 0.2)  # 1 of 100 conflicts below: one standard error is one of 100
    far = finalist(by_kind(conflict=85), 0.1)
    harmful = finalist(by_kind(conflict=100, agreement=100, irrelevant=30), 0.05)
    assert gain(PLAIN, harmful.answers) > gain(PLAIN, best.answers)
    for order in ([best, near, far, harmful], [harmful, far, near, best]):
        assert choose(PLAIN, order) is near
    assert choose(PLAIN, [best, far, harmful]) is best
    with pytest.raises(LearningError, match=r"none is chosen: KeyScaling\(gain=0.05.*irrelevant: 10% fewer"):
        choose(PLAIN, [harmful])


def test_a_setting_that_answers_no_better_is_not_chosen():
    worse, same = finalist(by_kind(conflict=30, novel=40), 0.1), finalist(PLAIN, 0.05)
    with pytest.raises(
        LearningError, match=r"none is chosen: KeyScaling\(gain=0.1.*: no gain \(-0.050\); .*: no gain \(\+0.000"
    ):
        choose(PLAIN, [worse, same])
    better = finalist(by_kind(conflict=41), 0.3)
    assert choose(PLAIN, [worse, same, better]) is better  # although what it gains is less than its error


def test_what_a_bank_keeps_of_answers():
    steered = by_kind(conflict=[i >= 30 for i in range(N)], repeated=0.01)
    kept = record(PLAIN, steered, finalist(steered, 0.2).trial, chosen=True)
    conflict = kept.kinds[0]
    assert (conflict.kind, conflict.n, conflict.right, conflict.won, conflict.lost) == ("conflict", N, 70, 60, 30)
    assert (conflict.stopped, kept.disturbance, kept.chosen) == (N, 0.2, True)
    assert conflict.repetition == pytest.approx(0.01)
    few = {kind: some.first(10) for kind, some in steered.items()}
    assert record(PLAIN, few).kinds[0].n == 10


def with_trial(candidate, disturbance):
    steering = candidate.method.as_dict()
    return candidate, Trial(steering=steering, heads="h", examples=8, following=0, margin=0, disturbance=disturbance)


@pytest.mark.parametrize(
    ("harmful", "expected", "measured"),
    [
        ([], "KeyScaling 1", []),
        (["KeyScaling 1"], "KeyScaling 0.71", ["KeyScaling 0.71"]),
        (["KeyScaling 1", "KeyScaling 0.71"], "Seka 0.5", ["KeyScaling 0.71"]),  # weaker, it gains no more than Seka
        (["KeyScaling 1", "Seka 0.5"], "KeyScaling 0.71", ["KeyScaling 0.71"]),
        (
            ["KeyScaling 1", "KeyScaling 0.71", "KeyScaling 0.51", "Seka 0.5"],
            "Seka 0.36",
            ["KeyScaling 0.71", "KeyScaling 0.51", "Seka 0.36"],
        ),
    ],
)
def test_what_does_harm_is_made_weaker_while_it_may_be_the_best(asked, monkeypatch, harmful, expected, measured):
    model, records = asked
    right = {"KeyScaling 1": 6, "KeyScaling 0.71": 5, "KeyScaling 0.51": 4, "Seka 0.5": 5, "Seka 0.36": 2}

    def name(steering):
        return f"{steering['method']} {steering['gain']:g}"

    def ask(self, candidate, kind, part):
        if candidate is None:
            return [(False, 0.0, True) for _ in part]
        said = name(candidate.method.as_dict())
        return [(i < right[said], 0.5 if said in harmful else 0.0, True) for i in part]

    monkeypatch.setattr(Answering, "_ask", ask)
    answering = Answering(model.hf_model, model.tokenizer, records, Steps(None, {}))
    methods = [KeyScaling(gain=1.0, fade="sentence"), Seka(gain=0.5, fade="sentence")]
    begin = [with_trial(Candidate(method, model.bank, "h"), 0.125) for method in methods]
    done = {}
    outcome = finals(
        answering, begin, 0.3, lambda step, *n: done.update({step: n}), lambda c: with_trial(c, c.method.gain / 10)
    )
    assert name(outcome.chosen.method.as_dict()) == expected
    assert [name(t.steering) for t in outcome.weaker] == measured
    answered = outcome.answers[1:]
    assert {name(a.steering) for a in answered} == {"KeyScaling 1", "Seka 0.5", *measured}
    assert {name(a.steering) for a in answered if a.harm} == set(harmful)
    assert {name(a.steering) for a in answered if a.steering["fade"] is None} == {expected}
    assert next(iter(done)) == "answers"
    assert list(done)[-1] == "answers, never fading"
    assert all(n == total for n, total in done.values())


@pytest.mark.parametrize(
    ("method", "tried", "harmful", "expected", "measured"),
    [
        (KeyVector(gain=1.0), (0.7, 1.0, 1.4), (0.7, 1.0, 1.4), 0.5, [0.5]),
        (KeyBias(bias=1.0), (1.4, 2.0, 2.8, 4.0), (2.8, 4.0), 2.0, []),  # 4 / 1.4 is 2.86
        (Seka(gain=1.0), (0.35, 0.5), (0.35, 0.5), 0.25, [0.25]),
    ],
)
def test_a_strength_near_one_that_was_tried_is_not_asked(
    asked, monkeypatch, method, tried, harmful, expected, measured
):
    """The two strongest do harm: weaker are the trained strengths below them, as far as there are any."""
    model, records = asked
    calls, right = [], [*sorted(tried), 9.0]

    def ask(self, candidate, kind, part):
        if candidate is None:
            return [(False, 0.0, True) for _ in part]
        strength = candidate.method.strength
        calls.append((strength, candidate.method.fade, kind, part))
        place = next(place for place, other in enumerate(right) if strength <= other)
        return [(i < place + 2, 0.5 if strength in harmful else 0.0, True) for i in part]

    monkeypatch.setattr(Answering, "_ask", ask)
    answering = Answering(model.hf_model, model.tokenizer, records, Steps(None, {}))
    method = method.model_copy(update={"fade": "sentence"})
    some = [Candidate(method.with_strength(value), model.bank, "h", training="vectors") for value in tried]
    outcome = finals(answering, [with_trial(c, 0.1) for c in some], 0.3, lambda *_: None, lambda c: with_trial(c, 0.05))
    assert len(calls) == len(set(calls))
    assert [t.steering[method.strength_field] for t in outcome.weaker] == measured
    assert outcome.chosen.method.strength == expected


def test_a_finalist_that_was_left_out_goes_on_where_a_stronger_one_does_harm(asked, monkeypatch):
    """Vectors at 2 lead and do harm, those at 1.4 were fourth after the first third."""
    model, records = asked
    calls, right = (
        [],
        {"KeyVector 2": range(6), "KeyVector 1.4": range(1, 6), "Seka 1": range(2), "KeyScaling 1": range(2)},
    )

    def ask(self, candidate, kind, part):
        if candidate is None:
            return [(False, 0.0, True) for _ in part]
        name = f"{type(candidate.method).__name__} {candidate.method.strength:g}"
        calls.append((name, candidate.method.fade, kind, part))
        return [(i in right.get(name, ()), 0.5 if name == "KeyVector 2" else 0.0, True) for i in part]

    monkeypatch.setattr(Answering, "_ask", ask)
    answering = Answering(model.hf_model, model.tokenizer, records, Steps(None, {}))
    some = [Candidate(method(gain=1.0), model.bank, "h") for method in (Seka, KeyScaling, Prism)]
    some += [Candidate(KeyVector(gain=gain, fade="sentence"), model.bank, "h", training="vectors") for gain in (1.4, 2)]
    done = {}
    outcome = finals(
        answering,
        [with_trial(c, 0.1) for c in some],
        0.3,
        lambda step, *n: done.update({step: n}),
        lambda _: pytest.fail("it has a trial"),
    )
    assert outcome.chosen == some[3]
    assert outcome.weaker == ()
    assert len(calls) == len(set(calls))
    assert all(n == total for n, total in done.values())
    answered = [
        (a.steering["method"], a.steering["gain"], a.steering["fade"], a.kinds[0].n) for a in outcome.answers[1:]
    ]
    assert len(answered) == len(set(answered))
    assert [n for *_, n in answered] == [6, 6, 6, 6, 6, 2]


def test_finalists_are_the_first_of_each_method_and_two_of_each_training_but_no_controls():
    def tried(method, disturbance=0.1, control=False, training=None):
        trial = Trial(steering=method.as_dict(), heads="", examples=8, following=0, margin=0, disturbance=disturbance)
        return Candidate(method, BANK, "", control, training), trial

    seka, twin = tried(Seka(gain=1.0)), tried(RandomProjection(gain=1.0), control=True)
    vectors = [tried(KeyVector(gain=g), g / 5, training="vectors") for g in (0.7, 1.0, 1.4, 2.0)]
    turned = [tried(Seka(gain=g), g / 2, training="subspaces") for g in (0.35, 0.5, 0.7)]
    some = [tried(KeyScaling(gain=1.0), 0.5), seka, tried(Seka(gain=0.5)), tried(KeyScaling(gain=0.5)), twin]
    assert finalists([*some, *vectors, *turned], 0.3) == [seka, some[3], *vectors[1:3], *turned[:2]]
    with pytest.raises(LearningError, match=r"no setting stays within 0.05 nats of disturbance; the least is 0.1"):
        finalists(some, 0.05)


@pytest.fixture(scope="module")
def asked():
    model = SteeredModel.from_pretrained("seka-demo")
    return model, {kind: questions(kind, "development", 6, passages=(3, 3)) for kind in (*JUDGED, *REPORTED)}


def test_answers_are_those_of_the_steered_model(asked, monkeypatch):
    model, records = asked
    seen = []
    monkeypatch.setattr("seka_rag.learning.answering.repetition", lambda text: seen.append(text) or repetition(text))
    answering = Answering(model.hf_model, model.tokenizer, records, Steps(None, {}))
    method = KeyScaling(gain=1.0, fade="sentence")
    found = answering(Candidate(method, model.bank, "all"), ["novel"], range(2, 6))["novel"]
    some = records["novel"][2:6]
    messages = [model.tokenize_chat([{"role": "user", "content": r.message}]) for r in some]
    outs = model.generate(messages, steering=method, max_new_tokens=24)
    assert sorted(seen) == sorted(out.text for out in outs)
    assert found.right == tuple(r.is_right(out.text) for r, out in zip(some, outs, strict=True))
    assert found.stopped == tuple(out.finish_reason == "stop" for out in outs)
    plain = answering(None, ["novel"], range(2, 6))["novel"]
    outs = model.generate(messages, steering=None, max_new_tokens=24)
    assert plain.right == tuple(r.is_right(out.text) for r, out in zip(some, outs, strict=True))
    assert all(isinstance(r.message, Prompt) for r in some)


@pytest.mark.parametrize(("text", "expected"), [(" Lyon\nQuestion: Where?", " Lyon"), (" Lyon", " Lyon")])
@pytest.mark.parametrize("chat", [True, False])
def test_the_answer_of_a_model_without_a_chat_template_is_its_first_line(asked, monkeypatch, text, expected, chat):
    """Such a model goes on with another question; the benchmark stops it there, too."""
    model, records = asked
    seen, lengths, tokenizer = [], [], copy.deepcopy(model.tokenizer)
    if not chat:
        tokenizer.chat_template = None
    monkeypatch.setattr(tokenizer, "decode", lambda ids, **_: lengths.append(len(ids)) or text)
    monkeypatch.setattr("seka_rag.learning.answering.end_ids", lambda *_: set())
    monkeypatch.setattr("seka_rag.learning.answering.repetition", lambda text: seen.append(text) or 0.0)
    monkeypatch.setattr("seka_rag.learning.answering.NEW_TOKENS", 2)
    found = Answering(model.hf_model, tokenizer, records, Steps(None, {}))(None, ["novel"], range(2))["novel"]
    assert seen == [text if chat else expected] * 2
    cut = not chat and "\n" in text
    assert found.stopped == (cut,) * 2
    assert max(lengths) == (1 if cut else 2)  # no token is generated after the line


def test_the_finals_ask_all_a_part_and_the_best_everything_and_go_on_after_a_kill(asked, tmp_path, monkeypatch):
    model, records = asked
    vectors = (KeyVector(gain=g, fade="sentence") for g in (1.0, 2.0, 2.5))  # the two strongest are finalists
    methods = [Seka(gain=1.0), KeyScaling(gain=0.5), *vectors]
    right = {"Seka": 3, "KeyScaling": 1, "KeyVector": 6}
    calls = []

    def ask(self, candidate, kind, part):
        calls.append((None if candidate is None else repr(candidate.method), kind, part))
        if len(calls) == 30:
            raise KeyboardInterrupt
        limit = 0 if candidate is None else right.get(type(candidate.method).__name__, 0)
        return [(i < limit, 0.0, True) for i in part]

    monkeypatch.setattr(Answering, "_ask", ask)

    def run():
        trials = []
        for method in [*methods, RandomProjection(gain=1.0)]:
            control, training = (
                isinstance(method, RandomProjection),
                "vectors" if isinstance(method, KeyVector) else None,
            )
            trials.append(with_trial(Candidate(method, model.bank, "h", control, training), method.strength / 10))
        done = {}
        answering = Answering(model.hf_model, model.tokenizer, records, Steps(tmp_path, {}))
        outcome = finals(
            answering, trials, 0.3, lambda step, *n: done.update({step: n}), lambda _: pytest.fail("nothing does harm")
        )
        return outcome, done

    with pytest.raises(KeyboardInterrupt):
        run()
    outcome, done = run()
    kept = outcome.answers
    assert outcome.chosen.method == KeyVector(gain=2.0, fade="sentence")
    assert all(n == total for n, total in done.values())
    assert len(calls) == len(set(calls)) + 1  # only what the kill interrupted is asked twice
    answered = [(a.steering["method"], a.kinds[0].n) for a in kept[1:]]
    assert answered == [("KeyVector", 6)] * 3 + [("Seka", 6), ("KeyScaling", 2)]
    assert sorted(a.steering["gain"] for a in kept[1:4]) == [2.0, 2.0, 2.5]
    assert {a.steering["fade"] for a in kept[1:] if a.steering["method"] == "KeyVector"} == {None, "sentence"}
    assert [a.chosen for a in kept].count(True) == 1
    assert kept[0].steering is None
    assert {k.kind for k in kept[0].kinds} == {*JUDGED, *REPORTED}
    assert json.loads(kept[1].model_dump_json())["gain"] == kept[1].gain
