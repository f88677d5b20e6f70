"""Training: it follows more within its budget, a bank keeps it, and a run that was killed ends as one that was not."""

import pytest
import torch
from tiny import random_bank, tiny_examples, tiny_model

from seka_rag.errors import LearningError, SettingError
from seka_rag.hf.find import find_key_sites
from seka_rag.learning import tune as tuning
from seka_rag.learning.resume import Steps
from seka_rag.learning.scores import divergence, margins, next_scores
from seka_rag.learning.trainable import TRAINABLES, Strengths, by_layer, trainings, turned
from seka_rag.learning.tune import TuningSettings, tune
from seka_rag.ops.edits import Part
from seka_rag.steering.key_bias import KeyBias

KINDS = pytest.mark.parametrize("kind", TRAINABLES)


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama").eval()


@pytest.fixture(scope="module", autouse=True)
def no_cap():
    """Training knows no cap, and the random queries of a tiny model need long vectors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Strengths, "method", KeyBias(bias=2.0, cap=1e6, fade="sentence"))
        yield


@pytest.fixture(scope="module")
def make(model, no_cap):
    """A training of some kind that starts with half of the heads."""
    bank, sites = random_bank(model), find_key_sites(model)
    begin = torch.ones(bank.model.layers, bank.model.heads)
    begin[:, 0] = 0

    def made(kind):
        return TRAINABLES[kind](bank, begin, sites)

    return made


def scores(model, examples, edits):
    with torch.no_grad():
        return next_scores(model, find_key_sites(model), examples, edits)


@KINDS
def test_training_follows_within_the_budget_and_leaves_the_model_alone(model, make, kind):
    before = {name: p.clone() for name, p in model.named_parameters()}
    conflicts, unrelated = tiny_examples(8, seed=4), tiny_examples(8, seed=5)
    settings, seen, trained = TuningSettings(steps=40, rate=0.3, disturbance=0.0005), [], make(kind)
    tight = tune(model, trained, conflicts, unrelated, settings, progress=seen.append)
    free = tune(model, trained, conflicts, unrelated, settings.model_copy(update={"disturbance": 1e9}))
    assert sum(seen) == settings.steps
    plain = scores(model, unrelated, None)
    moved = [divergence(plain, scores(model, unrelated, trained.edits(t))).mean() for t in (tight, free)]
    assert moved[0] < moved[1] / 2
    start, end = (
        margins(scores(model, conflicts, trained.edits(t)), conflicts).mean() for t in (trained.start(), free)
    )
    assert end > start + 0.02
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())
    assert all(not t.requires_grad for t in free.values())


@KINDS
def test_the_bank_does_what_was_trained(model, make, kind):
    """Saved and loaded, with the method of this kind, at the strength for which it was trained."""
    trained, some = make(kind), tiny_examples(6, seed=1)
    tensors = tune(model, trained, some, tiny_examples(6, seed=2), TuningSettings(steps=5, rate=0.2))
    bank = trained.bank(tensors, trained.learned)
    expected = scores(model, some, trained.edits(tensors))
    found = scores(model, some, trained.method.edits(bank, trained.sites))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    begun = scores(model, some, trained.edits(trained.start()))
    assert (found - begun).abs().max() > 1e-3
    assert torch.equal(bank.ranks, trained.learned.ranks)
    strengths = [m.strength / trained.method.strength for m in trained.methods]
    assert strengths == pytest.approx([0.7, 1.0, 1.4, 2.0])


@KINDS
def test_gradients_are_finite_differences(model, make, kind):
    trained, some = make(kind), tiny_examples(6, seed=3)
    sites = find_key_sites(model)
    draw = torch.Generator().manual_seed(0)
    point = {k: t + 0.05 * torch.randn(t.shape, generator=draw) for k, t in trained.start().items()}
    leaves = {k: t.clone().requires_grad_() for k, t in point.items()}
    margin = margins(next_scores(model, sites, some, trained.edits(leaves)), some).mean()
    gradients = torch.autograd.grad(margin, list(leaves.values()))
    direction = {k: torch.randn(t.shape, generator=draw) for k, t in point.items()}
    expected = sum((g * direction[k]).sum() for k, g in zip(leaves, gradients, strict=True))
    step = 0.003
    sides = [
        margins(scores(model, some, trained.edits({k: t + sign * step * direction[k] for k, t in point.items()})), some)
        for sign in (1, -1)
    ]
    measured = (sides[0] - sides[1]).mean() / (2 * step)
    torch.testing.assert_close(expected, measured, atol=5e-4, rtol=2e-2)
    assert expected.abs() > 1e-3


def test_turned_subspaces_are_subspaces_of_the_same_rank():
    draw = torch.Generator().manual_seed(1)
    factors = torch.linalg.qr(torch.randn(3, 8, 8, generator=draw))[0][..., :5].clone()
    factors[1, :, 2:] = 0
    turn = torch.randn(3, 8, 8, generator=draw)
    found = turned(turn, factors)
    torch.testing.assert_close(found.mT @ found, factors.mT @ factors, atol=1e-5, rtol=1e-5)
    assert (found - factors).abs().max() > 0.1
    torch.testing.assert_close(turned(torch.zeros(3, 8, 8), factors), factors)


def test_what_a_training_starts_from(make):
    """Half of the heads are steered as without training, the others not at all."""
    for kind in ("strengths", "subspaces"):
        trained = make(kind)
        for layer, edit in trained.edits(trained.start()).items():
            whole = trained.method.edits(trained.learned, trained.sites)[layer]
            keys = torch.randn(1, 3, trained.sites.heads, trained.sites.head_dim)
            rows, ones = torch.zeros(3, dtype=torch.long), torch.ones(3)
            part = Part(ones.bool(), rows, torch.arange(3), ones, rows)
            found, expected = edit.apply(keys, part, None), whole.apply(keys, part, None)
            torch.testing.assert_close(found[:, :, 1:], expected[:, :, 1:], atol=1e-5, rtol=1e-5)
            assert torch.equal(found[:, :, 0], keys[:, :, 0]), layer
    vectors = by_layer(make("vectors").start(), "vector")
    assert 0 not in vectors
    assert all(not v[0].any() and v[1].any() for v in vectors.values())


@KINDS
def test_training_is_repeatable(model, make, kind):
    runs = [
        tune(model, make(kind), tiny_examples(8, 6), tiny_examples(8, 7), TuningSettings(steps=3), seed=2)
        for _ in range(2)
    ]
    assert all(torch.equal(first, second) for first, second in zip(*(r.values() for r in runs), strict=True))


def test_no_examples(model, make):
    with pytest.raises(LearningError, match="unrelated"):
        tune(model, make("vectors"), tiny_examples(2, 1), [])


def test_names_of_trainings():
    assert trainings(None) == ()
    assert trainings("all") == ("vectors", "strengths", "subspaces")
    assert trainings("subspaces, vectors") == ("vectors", "subspaces")
    with pytest.raises(SettingError, match="'weights': there are vectors, strengths, subspaces"):
        trainings("vectors,weights")


@pytest.mark.parametrize(
    ("kind", "killed_after"), [("vectors", 3), ("subspaces", 10), ("strengths", 17), ("subspaces", 24)]
)
def test_training_that_was_killed_ends_as_one_that_was_not(tmp_path, model, make, kind, killed_after):
    settings = TuningSettings(steps=24, rate=0.2)
    arguments = (model, make(kind), tiny_examples(9, 6), tiny_examples(9, 7), settings)
    whole, seen = tune(*arguments), []

    def kill(done: int) -> None:
        seen.append(done)
        if sum(seen) == killed_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(*arguments, progress=kill, steps=Steps(tmp_path, {}))
    again: list[int] = []
    found = tune(*arguments, progress=again.append, steps=Steps(tmp_path, {}))
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())
    kept = 24 if killed_after == 24 else killed_after // tuning._KEEP_EVERY * tuning._KEEP_EVERY
    assert sum(again) == 24
    assert len(again) == 24 - kept + (kept > 0)
