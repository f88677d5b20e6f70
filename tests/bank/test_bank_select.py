"""Fewer heads of an existing bank, and how thresholds change what is kept."""

import pytest
import torch

from seka_rag import ProjectionBank, learn_bank
from seka_rag.bank.sensitivity import bank_sensitivity, sensitivity
from seka_rag.demo.trials import demo_triples
from seka_rag.errors import BankError, SettingError
from seka_rag.hf.identity import identify
from seka_rag.learning.learn import bank_from_statistics, statistics_sensitivity
from seka_rag.learning.statistics import collect_statistics


@pytest.fixture(scope="module")
def statistics(qwen3, tokenizer):
    return collect_statistics(qwen3, tokenizer, demo_triples(12))


@pytest.fixture(scope="module")
def bank(qwen3, statistics):
    return bank_from_statistics(identify(qwen3), statistics, energy=0.8, negative=True)


@pytest.mark.parametrize(
    "rule", [{"best": 0.34}, {"quantile": 0.6}, {"min_gap": 0.0}, {"heads": [(1, 1), (2, 0)]}, {"heads": [(2, 1)]}]
)
def test_selected_is_what_learning_with_the_rule_gives(qwen3, statistics, bank, rule):
    selected = bank.select(**rule)
    learned = bank_from_statistics(identify(qwen3), statistics, energy=0.8, negative=True, **rule)
    assert torch.equal(selected.ranks, learned.ranks)
    assert (
        list(selected.positive) == list(selected.negative) == list(selected.singular_values) == list(learned.positive)
    )
    for layer in learned.positive:
        assert torch.allclose(selected.projection(layer), learned.projection(layer))
        width = learned.singular_values[layer].shape[1]
        assert torch.equal(selected.singular_values[layer][:, :width], learned.singular_values[layer])
        u, v = selected.negative[layer], learned.negative[layer]
        assert torch.allclose(u @ u.mT, v @ v.mT)
    assert torch.equal(selected.gap, bank.gap)
    assert selected.digest != bank.digest or torch.equal(selected.ranks, bank.ranks)


def test_layers_are_named_by_id(bank, tmp_path):
    upper = bank.select(layers=[2])
    assert list(upper.positive) == [2]
    assert torch.equal(upper.positive[2], bank.positive[2])
    assert upper.learning.heads == "all with a gap; of these all with a gap in layers [2]"
    assert ProjectionBank.load(upper.save(tmp_path / "upper")).digest == upper.digest
    assert bank.select(layers=[2], heads=[(1, 0), (2, 1)]).ranks.gt(0).nonzero().tolist() == [[2, 1]]
    assert bank.select().digest == bank.digest
    with pytest.raises(BankError, match=r"layers \[0, 7\] were asked for; the bank has layers \[1, 2\]"):
        bank.select(layers=[0, 2, 7])


def test_what_is_not_there_is_never_left_out_silently(bank):
    few = bank.select(best=0.34)
    assert int((few.ranks > 0).sum()) == 2
    with pytest.raises(BankError, match=r"holds nothing for 2 of the heads chosen, such as \(\d, \d\)"):
        few.select(best=1.0)
    with pytest.raises(BankError, match=r"holds nothing for 1 of the heads chosen, such as \(0, 0\)"):
        bank.select(heads=[(0, 0), (1, 0)])
    with pytest.raises(BankError, match="no head is left by 'gap >= 1000'"):
        bank.select(min_gap=1e3)
    with pytest.raises(SettingError, match="min_gap and best"):
        bank.select(min_gap=0.1, best=0.5)


def test_a_bank_without_gaps_is_selected_by_name(qwen3, make_bank):
    bank = make_bank(qwen3)
    assert bank.select(heads=[(0, 1)]).ranks.tolist() == [[0, 3], [0, 0], [0, 0]]
    with pytest.raises(BankError, match="no head is left"):
        bank.select(best=0.5)


def test_sensitivity_counts_what_learning_would_keep(qwen3, tokenizer, statistics):
    rows = statistics_sensitivity(statistics, shares=(0.34, 1.0), energies=(0.5, 0.9))
    for row in rows:
        for energy, mean in zip((0.5, 0.9), row.ranks, strict=True):
            bank = bank_from_statistics(identify(qwen3), statistics, energy=energy, best=row.best)
            kept = bank.ranks[bank.ranks > 0]
            assert row.heads == len(kept)
            assert mean == pytest.approx(float(kept.double().mean()))
            same = bank_from_statistics(identify(qwen3), statistics, energy=energy, min_gap=row.min_gap * (1 - 1e-6))
            assert torch.equal(same.ranks, bank.ranks)


def test_sensitivity_of_a_bank(bank, make_bank, qwen3):
    full, *_ = bank_sensitivity(bank, shares=(1.0,), energies=(1.0,))
    assert full.heads == 4
    assert full.ranks[0] == pytest.approx(float(bank.ranks[bank.ranks > 0].double().mean()))
    few = bank_sensitivity(bank.select(best=0.34), shares=(0.34, 1.0), energies=(0.5,))
    assert few[0].ranks[0] >= 1
    assert few[1].ranks == (None,)  # includes heads that were dropped
    assert bank_sensitivity(make_bank(qwen3), shares=(1.0,))[0].heads == 0
    by_hand = sensitivity(
        torch.tensor([[0.0, 2.0]]), torch.tensor([[[0.0] * 4, [5.0, 3.0, 1.0, 1.0]]]), 2, (1.0,), (0.5, 0.8)
    )
    assert (by_hand[0].heads, by_hand[0].min_gap, by_hand[0].ranks) == (1, 2.0, (1.0, 2.0))


def test_quantile_and_names_reach_learning(qwen3, tokenizer):
    bank = learn_bank(qwen3, demo_triples(12), tokenizer=tokenizer, quantile=0.7)
    assert int((bank.ranks > 0).sum()) == 1  # the fourth of four gaps alone is above their .7 quantile
    assert bank.learning.heads == "gap >= quantile 0.7"
