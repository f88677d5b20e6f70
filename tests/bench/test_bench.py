"""The benchmarks measure what they say."""

import math

import pytest
import torch

from seka_rag.bank import ExpertBank
from seka_rag.bench import learning, speed
from seka_rag.bench.meters import free, peak, start_peak
from seka_rag.bench.models import random_bank, random_model
from seka_rag.errors import LearningError, SteeringError
from seka_rag.learning.learn import learn_bank
from seka_rag.learning.tasks.lookup import template_triples
from seka_rag.steering.seka import Seka

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    return random_model(128, 2, vocabulary=2000)


def test_three_whole_passes_learn_what_learn_bank_learns(model, tokenizer):
    triples = template_triples(6)
    for data in (triples, learning.among_passages(triples, 1, 3), learning.sharing_passages(triples, 3)):
        plain = learning.three_passes(model, tokenizer, data)
        bank = learn_bank(model, data, tokenizer=tokenizer)
        assert set(bank.positive) == {1}
        assert torch.allclose(bank.projection(1), plain[1], atol=1e-5)
    assert learning.compare(model, tokenizer, triples, rounds=1).difference < 1e-5


def test_builders_that_disagree_are_an_error(model, tokenizer, monkeypatch):
    monkeypatch.setattr(learning, "three_passes", lambda *_: {i: torch.zeros(1, 64, 64) for i in range(2)})
    with pytest.raises(LearningError, match="differ by"):
        learning.compare(model, tokenizer, template_triples(3), rounds=1)


def test_answers_stay_where_they_are_among_passages():
    triples = template_triples(6)
    for at in range(3):
        for before, after in zip(triples, learning.among_passages(triples, at, 3), strict=True):
            assert after.answer_text == before.answer_text
            assert after.context.split("\n\n")[at] == before.context
            assert after.answer.start - before.answer.start == after.context.index(before.context)
    shared = learning.sharing_passages(triples, 3)
    assert [t.answer_text for t in shared] == [t.answer_text for t in triples]
    assert len({t.context for t in shared}) == 2


def test_the_peak_is_that_of_the_run():
    start_peak(CPU)
    before = peak(CPU)
    assert torch.ones(30_000_000).sum() > 0  # 120 MB, given back at once
    assert 110e6 < peak(CPU) - before < 160e6
    start_peak(CPU)
    assert peak(CPU) - before < 60e6
    assert free(CPU) > 100e6


def test_every_way_runs_and_steers(model):
    ids = torch.arange(10, 42).view(1, 32)
    banks = random_bank(model), ExpertBank({"a": random_bank(model)})
    ways = speed.ways(model, banks, (1, 32), [0.1, 0.25, 1.0])
    costs = speed.measure(model, ids, ways, rounds=2, new_tokens=2, seconds=math.inf)
    assert [len(found) for found in costs.values()] == [2] * len(ways)
    assert all(math.isfinite(c.prefill * c.token * c.peak) and c.prefill < c.total for f in costs.values() for c in f)
    first, *_ = rows = list(speed.table(costs, ids))
    assert first.startswith("| 1 x 32 | plain (2) | 1.000 (1.00-1.00) | 1.000")
    assert len(rows) == len(ways)
    assert model.config._attn_implementation == "sdpa"


def test_what_does_not_fit_is_said(model, monkeypatch):
    ids = torch.arange(10, 42).view(1, 32)
    ways = [speed.Way("plain"), speed.Way("plain, eager attention", attention="eager"), speed.Way("later")]
    monkeypatch.setattr(speed, "free", lambda _: 0)
    costs = speed.measure(model, ids, ways, rounds=3, new_tokens=1, seconds=0)
    assert [len(found) for found in costs.values()] == [1, 0, 0]
    assert [row.count("not run: too much time or memory") for row in speed.table(costs, ids)] == [0, 1, 1]


def test_a_benchmark_that_steers_nothing_is_an_error(model):
    bank, mask = random_bank(model), torch.zeros(1, 8, dtype=torch.bool)
    way = speed.Way("nothing", lambda: speed._checked(model, bank, mask, Seka(gain=0.5)))
    with pytest.raises(SteeringError, match="steered 0 of 0"), torch.inference_mode():
        speed.once(model, torch.arange(10, 18)[None], 1, way)
