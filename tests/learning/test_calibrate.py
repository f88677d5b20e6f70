"""Calibration: gradients against finite differences, training within its budget, what is written and what refused."""

import copy
import importlib
from types import SimpleNamespace

import pytest
import torch
from tiny import random_bank, tiny_engine, tiny_examples, tiny_model

from seka_rag import ProjectionBank, SteeredModel, load_bank
from seka_rag.bank.header import Calibration, Trial
from seka_rag.errors import BankError, LearningError, SettingError
from seka_rag.hf.find import find_key_sites
from seka_rag.learning import answering, trainable, trials
from seka_rag.learning.calibrate import CalibrationSettings, calibrate
from seka_rag.learning.examples import answer_example
from seka_rag.learning.head_gradient import head_gradient
from seka_rag.learning.resume import Steps
from seka_rag.learning.scores import batches, divergence, margins, next_scores
from seka_rag.learning.trials import Bench, Candidate, Measure
from seka_rag.learning.tune import TuningSettings
from seka_rag.questions.facts import load_facts
from seka_rag.steering.key_bias import KeyBias
from seka_rag.steering.key_scaling import KeyScaling
from seka_rag.steering.seka import Seka
from seka_rag.text.prompt import Prompt

calibrating = importlib.import_module("seka_rag.learning.calibrate")  # the name is also that of its function


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama").eval()


@pytest.fixture(scope="module")
def bank(model) -> ProjectionBank:
    return random_bank(model)


def test_scores_are_the_models_own_and_padding_changes_nothing(model):
    some = tiny_examples(5, seed=1)
    together = next_scores(model, find_key_sites(model), some, None)
    for row, example in enumerate(some):
        alone = model(torch.tensor([example.prompt.ids])).logits[0, -1].log_softmax(-1)
        torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=1e-5)
        margin = margins(together, some)[row]
        torch.testing.assert_close(margin, alone[example.evidence] - alone[example.remembered], atol=1e-5, rtol=1e-4)


def test_divergence_is_torchs(model):
    first, second = torch.randn(2, 4, 30).log_softmax(-1)
    expected = torch.nn.functional.kl_div(second, first, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(divergence(first, second), expected)


def test_batches_hold_every_example_once():
    some = tiny_examples(11, seed=2)
    chosen = list(batches(some, 4))
    assert sorted(i for group in chosen for i in group) == list(range(11))
    assert [len(group) for group in chosen] == [4, 4, 3]


@pytest.mark.parametrize("method", [KeyBias(bias=1.0, distances=(4, 512)), KeyScaling(gain=1.0)])
def test_the_gradient_is_the_finite_difference(model, bank, method):
    sites, some = find_key_sites(model), tiny_examples(6, seed=3)
    edits = method.edits(bank, sites)
    gradient = head_gradient(model, some, edits, batch_size=4)
    step = 0.05
    for layer, edit in edits.items():
        for place, head in enumerate(edit.heads.tolist()):
            sides = []
            for sign in (1.0, -1.0):
                strengths = torch.zeros(len(edit.heads))
                strengths[place] = sign * step
                with torch.no_grad():
                    scores = next_scores(model, sites, some, {layer: edit.scaled(strengths)})
                sides.append(margins(scores, some).mean())
            measured = (sides[0] - sides[1]) / (2 * step)
            torch.testing.assert_close(gradient[layer, head], measured, atol=2e-4, rtol=2e-2)
    assert gradient.abs().max() > 1e-3
    assert not gradient[[i for i in range(len(gradient)) if i not in edits]].any()


def test_a_trial_counts_what_is_followed(model, bank):
    sites, conflicts, unrelated = find_key_sites(model), tiny_examples(7, seed=8), tiny_examples(6, seed=9)
    bench = Bench(model, sites, conflicts, unrelated, batch_size=3)
    method = KeyScaling(gain=1.0)
    edits = method.edits(bank, sites)
    measured = bench.measure(edits, range(2)) + bench.measure(edits, range(2, 7))
    with torch.no_grad():
        expected = margins(next_scores(model, sites, conflicts, edits), conflicts)
        sides = [next_scores(model, sites, unrelated, some) for some in (None, edits)]
    assert measured.margins == pytest.approx(expected.tolist(), abs=1e-5)
    assert measured.moved == pytest.approx(divergence(*sides).tolist(), abs=1e-5)
    trial = measured.trial(method, "some")
    assert trial.following == pytest.approx((expected > 0).float().mean().item())
    assert trial.margin == pytest.approx(expected.mean().item(), abs=1e-5)
    assert trial.disturbance == pytest.approx(divergence(*sides).mean().item(), abs=1e-5)
    assert trial.disturbance > 0
    assert (trial.examples, trial.steering) == (7, method.as_dict())
    assert bench.measure(None, range(5)).trial(None, "none").disturbance == 0


def test_no_candidate_is_measured_on_an_example_twice(model, bank, monkeypatch, tmp_path):
    """Rounds of 8, 8 and 13 examples: each measures what those before did not, and a run after a kill nothing."""
    bench = Bench(model, find_key_sites(model), tiny_examples(13, seed=8), tiny_examples(13, seed=9))
    whole = bench.measure(Seka(gain=1.0).edits(bank, bench.sites), range(13)).trial(Seka(gain=1.0), "all")
    seen: list[int] = []
    scores = trials.next_scores
    monkeypatch.setattr(trials, "next_scores", lambda m, s, some, e: seen.append(len(some)) or scores(m, s, some, e))
    some = Candidate(Seka(gain=1.0), bank, "all"), Candidate(Seka(gain=2.0), bank, "all")
    for again in range(2):
        measure = Measure(bench, Steps(tmp_path / "steps", {}))
        found = [[measure(c, count)[1] for c in some] for count in (8, 8, None)]
        assert [t.examples for row in found for t in row] == [8, 8, 8, 8, 13, 13]
        assert found[-1][0].margin == pytest.approx(whole.margin, abs=1e-5)
        assert found[-1][0].disturbance == pytest.approx(whole.disturbance, abs=1e-5)
        assert sum(seen) == 2 * (13 + 13), again  # conflicts and unrelated examples of two candidates


class Planted:
    """Trials of known figures: strength -> margin and disturbance."""

    def __init__(self, figures):
        self.figures, self.bench = figures, SimpleNamespace(conflicts=range(32))

    def __call__(self, candidate, count=None):
        margin, moved = self.figures[candidate.method.strength]
        steering = candidate.method.as_dict()
        return candidate, Trial(
            steering=steering, heads="", examples=count, following=0, margin=margin, disturbance=moved
        )

    def halved(self, bank):
        some = [Candidate(Seka(gain=gain), bank, "") for gain in self.figures]
        trials = calibrating._halved(self, some, CalibrationSettings(), lambda *_: None)
        return [(candidate.method.strength, trial.disturbance) for candidate, trial in trials]


def test_halving_keeps_the_best_within_the_budget_then_those_that_disturb_least(bank):
    figures = {1.0: (1, 0.1), 2.0: (2, 0.2), 3.0: (3, 0.3), 4.0: (9, 0.4), 5.0: (9, 0.5), 6.0: (9, 15.0)}
    assert Planted(figures).halved(bank) == [(3.0, 0.3), (2.0, 0.2)]
    over = {gain: (margin, moved + 0.21) for gain, (margin, moved) in figures.items()}
    assert [gain for gain, _ in Planted(over).halved(bank)] == [1.0, 2.0]


def test_a_setting_whose_scores_are_not_finite_is_left_out(bank, caplog):
    nan = float("nan")
    figures = {3.0: (nan, nan), 4.0: (nan, 0.1), 1.0: (1, 0.1), 5.0: (float("inf"), 0.1), 2.0: (2, 0.2), 6.0: (1, nan)}
    assert Planted(figures).halved(bank) == [(2.0, 0.2), (1.0, 0.1)]
    assert caplog.text.count("not finite with it: Seka(gain=") == 4
    with pytest.raises(LearningError, match="not finite with any setting"):
        Planted({3.0: (nan, nan)}).halved(bank)


def test_an_example_ends_where_the_answers_differ():
    engine = tiny_engine(512)
    tokenizer = engine.tokenizer
    opening = "Alec lives in"
    example = answer_example(tokenizer, Prompt("Where does Alec live?").highlight("Alec"), opening, "Lyon", "Oslo")
    assert example is not None
    ids = tokenizer(opening, add_special_tokens=False)["input_ids"]
    assert example.prompt.ids[-len(ids) :] == ids
    assert example.evidence == tokenizer(f"{opening} Lyon", add_special_tokens=False)["input_ids"][len(ids)]
    assert sum(w > 0 for w in example.prompt.weights) == 1
    assert answer_example(tokenizer, Prompt("Where?"), opening, "Lyon", "Lyon") is None


def test_a_model_that_knows_nothing_is_told(model):
    engine = tiny_engine(512)
    with pytest.raises(LearningError, match="facts, and calibration needs 24"):
        calibrate(engine, facts=load_facts()[:20])
    with pytest.raises(SettingError, match="tokenizer"):
        calibrate(model)


def test_a_bank_of_another_model_is_refused_before_anything_is_asked(bank, tmp_path):
    with pytest.raises(BankError, match="learned for another model: model_type"):
        calibrate(tiny_engine(512), bank, progress=lambda *_: pytest.fail("began"), unfinished=tmp_path / "steps")
    assert not (tmp_path / "steps").exists()


def test_a_model_in_training_is_calibrated_without_dropout():
    engine, seen = tiny_engine(512), []
    engine.hf_model.train()
    with pytest.raises(LearningError, match="the model knows"):
        calibrate(engine, facts=load_facts()[:40], progress=lambda *_: seen.append(engine.hf_model.training))
    assert seen
    assert not any(seen)
    assert engine.hf_model.training


def test_steps_of_another_tokenizer_or_version_are_not_taken_up(tmp_path, caplog, monkeypatch):
    engine = tiny_engine(512)

    def start(**template):
        caplog.clear()
        tokenizer = copy.deepcopy(engine.tokenizer)
        for name, value in template.items():
            setattr(tokenizer, name, value)
        with pytest.raises(LearningError, match="the model knows"):
            calibrate(engine.hf_model, tokenizer=tokenizer, facts=load_facts()[:20], unfinished=tmp_path / "steps")
        return caplog.text

    assert start() == start() == ""
    assert "other settings (tokenizer): starts anew" in start(chat_template="{{ messages[0].content }}")
    monkeypatch.setattr(calibrating, "version", lambda _: "0.0.1")
    assert "other settings (tokenizer, version): starts anew" in start()


@pytest.mark.parametrize(
    "bad", [{"budget": 0}, {"budget": float("nan")}, {"examples": 1}, {"rounds": 0}, {"questions": 7}, {"strength": 1}]
)
def test_settings_that_mean_nothing(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        CalibrationSettings(**bad)


def test_vectors_and_calibration_are_stored(tmp_path, model, bank):
    vectors = {1: torch.randn(bank.model.heads, bank.model.head_dim)}
    record = Calibration(budget=0.3, data="abc", seed=1, trials=())
    stored = bank.changed(vectors=vectors, steering={"method": "KeyVector", "gain": 1.0}, calibration=record)
    read = load_bank(stored.save(tmp_path / "bank"))
    assert torch.equal(read.vectors[1], vectors[1])
    assert read.calibration == record
    assert read.digest == stored.digest != bank.digest
    with pytest.raises(BankError, match="vectors of layer 1: shape"):
        bank.changed(vectors={1: torch.zeros(1, 1)})
    with pytest.raises(BankError, match="vectors of layer 99"):
        bank.changed(vectors={99: vectors[1]})
    with pytest.raises(BankError, match="not finite"):
        bank.changed(vectors={1: vectors[1] * float("nan")})


@pytest.mark.timeout(1500)  # two minutes of an idle core
@pytest.mark.real
def test_a_real_model_is_calibrated(smollm2, monkeypatch, tmp_path):
    """As the command runs it; killed once in training."""
    model = SteeredModel.from_pretrained("smollm2")
    monkeypatch.setattr(calibrating, "METHODS", (Seka(gain=1.0),))
    monkeypatch.setattr(trials, "METHODS", calibrating.METHODS)
    monkeypatch.setattr(calibrating, "_GRADIENT", 8)
    monkeypatch.setattr(calibrating, "_TRAINING", 16)
    monkeypatch.setattr(trainable, "_LENGTHS", (1.0,))
    monkeypatch.setattr(answering, "NEW_TOKENS", 8)  # of 24, which is most of the time
    settings = CalibrationSettings(
        examples=8, rounds=1, questions=8, budget=3.0, tune=("subspaces",), tuning=TuningSettings(steps=2), seed=1
    )
    seeds, tune = [], calibrating.tune
    monkeypatch.setattr(calibrating, "tune", lambda *a, seed, **k: seeds.append(seed) or tune(*a, seed=seed, **k))
    facts = [f for f in load_facts() if f.split == "development"][:40]
    steps: list[str] = []

    def kill(step: str, done: int, total: int) -> None:
        steps.append(step)
        if step == "training subspaces":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(model, model.bank, settings, facts=facts, progress=kill, unfinished=tmp_path / "steps")
    assert list(dict.fromkeys(steps)) == ["facts", "recall", "heads", "round 1 of 1", "training subspaces"]
    steps.clear()
    again = lambda step, *_: steps.append(step)  # noqa: E731
    monkeypatch.setattr(calibrating, "head_gradient", lambda *_, **__: pytest.fail("computed again"))
    found = calibrate(model, model.bank, settings, facts=facts, progress=again, unfinished=tmp_path / "steps")
    assert not {"facts", "recall"} & set(steps)
    assert seeds == [1, 1]
    record = found.calibration
    assert record is not None
    plain, *others = record.trials
    assert plain.steering is None
    assert plain.disturbance == 0
    assert {t.examples for t in record.trials} == {8}
    assert record.known is not None
    assert record.known >= 8 + record.trained
    assert record.recalled is not None
    assert 12 <= record.recalled < record.known  # it prefers more than it answers
    methods = [t.steering["method"] for t in others]
    assert methods[:7] == ["Seka"] * 3 + ["RandomProjection"] * 3 + ["Seka"]
    assert others[6].heads == "all, trained subspaces"
    assert len(others[7:]) == len({s for s in steps if s.startswith("answers at")})
    twins = [t for t in others if t.steering["method"] == "RandomProjection"]
    assert {t.steering["seed"] for t in twins} == {0, 1, 2}
    assert twins[0].heads in [t.heads for t in others if t.steering["method"] == "Seka"]
    answered = record.answers[1:]
    assert {a.steering["method"] for a in answered} == {"Seka"}
    assert "all, trained subspaces" in {a.heads for a in answered}
    assert [a.steering for a in answered if a.chosen] == [dict(found.steering)]
    assert {k.n for a in answered for k in a.kinds if k.kind != "wrong"} == {8}
    trained = next(a for a in answered if a.chosen).heads == "all, trained subspaces"
    assert (found.strengths is not None) == trained
    assert max(t.following for t in others) > plain.following
