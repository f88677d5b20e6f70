"""PRISM: keys and values of highlighted tokens against slow loops, its subspaces against numpy, and every way of running."""

import math

import modes
import numpy as np
import pytest
import torch
from modes import MODES
from tiny import demo_tokenizer, random_bank, tiny_model
from transformers import DynamicCache

from seka_rag import Prism, ProjectionBank, Prompt, Seka, SteeredModel, learn_bank, load_bank, steer
from seka_rag.demo.trials import demo_triples
from seka_rag.errors import BankError, LearningError, UnsupportedModelError
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.hooks import recording
from seka_rag.hf.identity import identify
from seka_rag.learning.learn import bank_from_statistics
from seka_rag.learning.statistics import collect_statistics
from seka_rag.learning.statistics_files import save_statistics
from seka_rag.steering.registry import as_steering, suggested

SHORT = torch.arange(30, 30 + 2 * 7).view(2, 7)
MARKED = torch.zeros(2, 7)
MARKED[0, [0, 3]], MARKED[1, 5] = 1, 0.5
BOTH = Prism(gain=2.0, gain_value=1.5, delta=0.3)


def with_values(model, layers=None):
    """A bank with subspaces of values, and gaps on both sides."""
    bank, draw = random_bank(model, layers=layers), torch.Generator().manual_seed(3)
    gap, value_gap = (torch.rand(bank.model.layers, bank.model.heads, generator=draw) for _ in range(2))
    return ProjectionBank(bank.model, bank.positive, gap=gap, values=bank.values, value_gap=value_gap)


def oracle(states, weights, projections, gain, gaps, delta):
    """x' = x + w g ln(1 + e^(gap - d)) P x, states [B, T, H, D]."""
    out = np.asarray(states.tolist(), np.float64)
    for b, t, h in np.ndindex(out.shape[:3]):
        x, p = out[b, t, h].copy(), np.asarray(projections[h].tolist(), np.float64)
        share = math.log(1 + math.exp(float(gaps[h]) - delta))
        for i in range(len(x)):
            out[b, t, h, i] += float(weights[b, t]) * gain * share * sum(p[i, j] * x[j] for j in range(len(x)))
    return torch.tensor(out)


def cached_values(model, layer, ids=SHORT):
    cache = DynamicCache()
    with torch.no_grad():
        model(ids, past_key_values=cache)
    return cache.layers[layer].values.transpose(1, 2)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text", "phi3", "gpt_neox"])
def test_keys_and_values_equal_the_loops(family):
    model = tiny_model(family)
    bank, sites = with_values(model, layers=[1]), find_key_sites(model)
    with recording(sites) as before:
        values = cached_values(model, 1)
    with steer(model, bank, MARKED, BOTH) as report, recording(sites) as after:
        edited = cached_values(model, 1)
    wanted = oracle(before[1], MARKED, bank.projection(1), 2.0, bank.gap[1], 0.3)
    assert torch.allclose(after[1].double(), wanted, rtol=1e-4, atol=1e-5)
    projections = bank.values[1] @ bank.values[1].mT
    wanted = oracle(values, MARKED, projections, 1.5, bank.value_gap[1], 0.3)
    assert torch.allclose(edited.double(), wanted, rtol=1e-4, atol=1e-5)
    assert torch.equal(edited[MARKED == 0], values[MARKED == 0])
    assert (report.tokens_edited, report.layers, report.heads) == (3, (1,), sites.heads)


def test_one_side_alone_leaves_the_other():
    model = tiny_model("qwen3")
    bank, sites = with_values(model, layers=[1]), find_key_sites(model)
    with recording(sites) as before:
        values = cached_values(model, 1)
    with steer(model, bank, MARKED, Prism(gain=0.0, gain_value=1.5)), recording(sites) as after:
        assert not torch.allclose(cached_values(model, 1), values, atol=1e-3)
    assert torch.equal(after[1], before[1])
    with steer(model, bank, MARKED, Prism(gain=1.5)), recording(sites) as after:
        assert torch.equal(cached_values(model, 1), values)
    assert not torch.allclose(after[1], before[1], atol=1e-3)
    with steer(model, bank, MARKED, Prism(gain=0.0)) as report:
        assert torch.equal(cached_values(model, 1), values)
    assert "runs unsteered" in report.warnings[0]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "phi3", "lfm2"])
def test_every_mode_of_keys_is_one_of_values(family):
    for mode in [*MODES, modes.CONTINUOUS]:
        assert modes.outcome(family, mode, BOTH) == modes.outcome(family, mode), mode
    assert not torch.allclose(
        modes.wanted_scores(family, BOTH), modes.wanted_scores(family, Prism(gain=2.0, delta=0.3)), atol=1e-3
    )


def test_values_fade_with_the_keys():
    model = tiny_model("qwen3")
    bank = with_values(model, layers=[0])
    token = torch.tensor([[40], [50]])

    def run(method):
        cache = DynamicCache()
        with torch.no_grad(), steer(model, bank, MARKED, method):
            model(SHORT, past_key_values=cache)
            edited = cache.layers[0].values.clone()
            model(token, past_key_values=cache)
        return edited, cache.layers[0].values[:, :, :7], cache.layers[0].keys[:, :, :7]

    _, plain, keys = run(Prism(gain=0.0))
    edited, back, keys_back = run(BOTH.model_copy(update={"fade": 1}))
    assert not torch.allclose(edited, plain, atol=1e-3)
    assert torch.equal(back, plain)
    assert torch.allclose(keys_back, keys, atol=1e-5)


def test_batches_prefixes_and_half_precision(qwen3, tokenizer):
    model = SteeredModel(qwen3, tokenizer, bank=with_values(qwen3))
    prompt = Prompt("Ada moved to Lyon last year. ").highlight("moved to Lyon")
    question = "Where does Ada live?"
    alone = model.generate(prompt + question, steering=BOTH, max_new_tokens=6)
    assert alone.text != model.generate(prompt + question, steering=Prism(gain=2.0, delta=0.3), max_new_tokens=6).text
    both = model.generate(
        [prompt + question, "Who is Robert, and where does he live?"], steering=BOTH, max_new_tokens=6
    )
    assert both[0].text == alone.text
    prefix = model.prefill(prompt, steering=BOTH)
    assert model.generate(question, prefix=prefix, steering=BOTH, max_new_tokens=6).text == alone.text
    half = tiny_model("qwen3").to(torch.bfloat16)
    bank = with_values(half, layers=[1])
    with steer(half, bank, MARKED, BOTH) as report:
        assert cached_values(half, 1).dtype == torch.bfloat16
    assert report.tokens_edited == 3


def test_learned_subspaces_are_of_the_difference_on_both_sides(qwen3, tmp_path):
    triples, tokenizer = demo_triples(20), demo_tokenizer()
    statistics = collect_statistics(qwen3, tokenizer, triples, values=True)
    bank = learn_bank(qwen3, triples, tokenizer=tokenizer, energy=0.8, difference=True, values=True)
    assert statistics.values is not None
    for sums, factors, gap in ((statistics, bank.positive, bank.gap), (statistics.values, bank.values, bank.value_gap)):
        n = statistics.tokens
        assert torch.allclose(gap.double(), sums.gap / n, rtol=1e-5)
        for layer in bank.layers:
            for head in range(2):
                omega = (sums.relevant[layer, head] - sums.irrelevant[layer, head]).numpy() / n
                u, s, _ = np.linalg.svd(omega)
                rank = next(r for r in range(1, len(s) + 1) if s[:r].sum() / s.sum() >= 0.8)
                p = torch.tensor(u[:, :rank] @ u[:, :rank].T)
                found = factors[layer][head].double()
                assert torch.allclose(found @ found.mT, p, atol=1e-5)
    seka = learn_bank(qwen3, triples, tokenizer=tokenizer, energy=0.8)
    assert not torch.allclose(seka.projection(bank.layers[0]), bank.projection(bank.layers[0]), atol=1e-2)
    assert torch.equal(seka.gap, bank.gap)
    assert not seka.values
    stored = ProjectionBank(
        bank.model, bank.positive, gap=bank.gap, values=bank.values, value_gap=bank.value_gap, steering=BOTH.as_dict()
    )
    again = load_bank(stored.save(tmp_path / "bank"))
    assert again.digest == stored.digest
    assert torch.equal(again.value_gap, bank.value_gap)
    assert suggested(again) == BOTH == as_steering(BOTH.as_dict())
    few = again.select(layers=[bank.layers[0]])
    assert set(few.values) == {bank.layers[0]}
    parts = [collect_statistics(qwen3, tokenizer, part, values=True) for part in (triples[:10], triples[10:])]
    total = parts[0] + parts[1]
    assert total.values is not None
    assert torch.allclose(total.values.relevant, statistics.values.relevant, rtol=1e-4, atol=1e-4)


def test_what_is_missing_is_said(qwen3, tmp_path):
    bare = ProjectionBank(identify(qwen3), random_bank(qwen3).positive)
    with pytest.raises(BankError, match="learn it with values=True"), steer(qwen3, bare, MARKED, BOTH):
        pass
    model = tiny_model("mimo_v2_flash")
    with pytest.raises(UnsupportedModelError, match="edit keys alone"), steer(model, with_values(model), MARKED, BOTH):
        pass
    with pytest.raises(UnsupportedModelError, match="is not known"):
        collect_statistics(model, demo_tokenizer(), demo_triples(2), values=True)
    keys = collect_statistics(qwen3, demo_tokenizer(), demo_triples(4))
    both = collect_statistics(qwen3, demo_tokenizer(), demo_triples(4), values=True)
    with pytest.raises(LearningError, match="with values and without"):
        keys + both
    with pytest.raises(LearningError, match="no sums of values"):
        bank_from_statistics(identify(qwen3), keys, values=True)
    with pytest.raises(LearningError, match="cannot be written"):
        save_statistics(tmp_path / "s", identify(qwen3), both)
    bank = random_bank(qwen3)
    with pytest.raises(BankError, match="values for layers"):
        ProjectionBank(bank.model, bank.positive, values={0: bank.positive[0]})
    with pytest.raises(ValueError, match="finite"):
        Prism(gain_value=float("nan"))
    assert Seka(gain=1.0) != Prism(gain=1.0)
