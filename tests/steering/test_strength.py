"""Strengths that destroy answers are refused, or warned of by what the bank suggests."""

from __future__ import annotations

import pytest
import torch

from seka_rag import KeyBias, KeyScaling, KeyVector, Prompt, RandomProjection, Seka, SteeredModel, steer
from seka_rag.bank.header import Answered, Calibration, Trial
from seka_rag.errors import SettingError
from seka_rag.steering.strength import strength_warnings

PROMPT = Prompt("Ada lives in Lyon. Where?").highlight("Ada lives in Lyon.")


@pytest.mark.parametrize("gain", [1e38, -1e38, 1e20])
@pytest.mark.parametrize(
    ("method", "advice"), [(Seka, r"the bank suggests gain=0\.5"), (KeyScaling, "give a smaller gain")]
)
def test_a_strength_that_overflows_is_refused(steered, method, advice, gain):
    with pytest.raises(SettingError, match=rf"gain={gain:g} would overflow in float32.*{advice}".replace("e+", r"e\+")):
        steered.generate(PROMPT, steering=method(gain=gain), max_new_tokens=1)
    assert (
        steered.generate(PROMPT, steering=Seka(gain=0.5), max_new_tokens=1).report.tokens_edited > 0
    )  # nothing stayed


def test_the_limit_is_that_of_the_dtype_and_counts_the_weights(qwen3, make_bank):
    import copy

    half, bank, mask = copy.deepcopy(qwen3).half(), make_bank(qwen3), torch.tensor([[0.0, 1.0, 2.0]])
    with pytest.raises(SettingError, match="gain=200 at a highlight weight of 2 would overflow in float16"):
        with steer(half, bank, mask, Seka(gain=200)):
            pass
    with steer(qwen3, bank, mask, Seka(gain=200)) as report:
        qwen3(torch.tensor([[1, 2, 3]]))
    assert "gain=200 is 400 times the 0.5" in report.warnings[-1]


@pytest.mark.parametrize(("gain", "warned"), [(-4.0, True), (2.1, True), (-2.0, False), (2.0, False), (0.5, False)])
def test_a_strength_far_beyond_the_suggested_one_is_warned_of(steered, gain, warned):
    report = steered.generate(PROMPT, steering=Seka(gain=gain), max_new_tokens=1).report
    assert any("answers may fall apart" in w for w in report.warnings) == warned


@pytest.mark.parametrize(("gain", "warned"), [(0.8, False), (-0.8, False), (0.9, True), (-2.0, True)])
def test_a_calibrated_bank_warns_beyond_what_was_measured_within_its_budget(steered, gain, warned):
    def trial(method: str, gain: float, disturbance: float) -> Trial:
        stored = {"method": method, "gain": gain}
        return Trial(steering=stored, heads="", examples=8, following=1, margin=1, disturbance=disturbance)

    plain = Trial(steering=None, heads="", examples=8, following=0.5, margin=0, disturbance=0)
    others = [trial("Seka", 0.4, 0.1), trial("Seka", 0.8, 0.2), trial("Seka", 1.6, 0.5), trial("KeyScaling", 3, 0.1)]
    record = Calibration(budget=0.3, data="", seed=0, trials=(plain, *others))
    model = SteeredModel(steered.hf_model, steered.tokenizer, bank=steered.bank.changed(calibration=record))
    warnings = model.generate(PROMPT, steering=Seka(gain=gain), max_new_tokens=1).report.warnings
    assert [w for w in warnings if "beyond 0.8, the strongest that calibration measured" in w] == warnings[:warned]
    # the strength that the bank suggests for SEKA says nothing of a method that was not measured
    assert not model.generate(PROMPT, steering=RandomProjection(gain=2.1), max_new_tokens=1).report.warnings


def test_a_method_that_was_measured_beyond_the_budget_only_is_warned_of_at_any_strength(steered):
    some = [(KeyScaling(gain=0.5), 5.7), (KeyScaling(gain=1), 9.5), (KeyVector(gain=0.99), 0.1)]
    trials = [
        Trial(steering=m.as_dict(), heads="", examples=8, following=1, margin=1, disturbance=moved) for m, moved in some
    ]
    record = Calibration(budget=0.3, data="", seed=0, trials=tuple(trials))
    for suggested in (KeyVector(gain=0.99), KeyBias(bias=2)):
        bank = steered.bank.changed(calibration=record, steering=suggested.as_dict())
        (warning,) = strength_warnings(KeyScaling(gain=0.5), bank)
        assert "the weakest that it measured, 0.5, disturbed by 5.7 nats, and its budget is 0.3" in warning
        assert not strength_warnings(KeyVector(gain=0.9), bank)


def test_of_the_chosen_method_only_the_chosen_heads_count():
    def trial(method: str, gain: float, heads: str) -> Trial:
        stored = {"method": method, "gain": gain}
        return Trial(steering=stored, heads=heads, examples=8, following=1, margin=1, disturbance=0.1)

    trials = [trial("Seka", 0.5, "some"), trial("Seka", 2.0, "trained"), trial("KeyVector", 1.4, "all")]
    chosen = Answered(
        steering=trials[0].steering, heads="some", disturbance=0.1, gain=0, harm=None, kinds=(), chosen=True
    )
    record = Calibration(budget=0.3, data="", seed=0, trials=tuple(trials), answers=(chosen,))
    assert record.disturbances("Seka", "gain") == [(0.5, 0.1)]
    assert record.disturbances("KeyVector", "gain") == [(1.4, 0.1)]


def test_the_negative_part_counts(steered):
    with pytest.raises(SettingError, match="overflow"):
        steered.generate(PROMPT, steering=Seka(gain=0.5, gain_neg=1e30), max_new_tokens=1)


@pytest.mark.real
def test_smollm2_is_never_silently_destroyed(smollm2):
    """At the strengths at which it babbles there is a warning, or no answer at all."""
    from tiny import random_bank

    model = SteeredModel(*smollm2, bank=random_bank(smollm2[0], rank=16))
    with pytest.raises(SettingError, match="overflow"):
        model.generate(PROMPT, steering=Seka(gain=1e38), max_new_tokens=4)
    assert any(
        "fall apart" in w for w in model.generate(PROMPT, steering=Seka(gain=-4), max_new_tokens=4).report.warnings
    )


def test_a_call_that_overflows_is_refused_before_it_waits_for_others(steered):
    from seka_rag.model.rows import checked_call

    heavy = steered.tokenize(PROMPT.mark(0, 3, weight=1e30))
    with pytest.raises(SettingError, match="highlight weight of 1e"):
        checked_call(steered, heavy, max_new_tokens=1)
