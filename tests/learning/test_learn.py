from dataclasses import replace
from typing import Any

import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import demo_tokenizer, tiny_model

from seka_rag import ContrastiveTriple, ProjectionBank, Span, learn_bank
from seka_rag.bank.heads import HeadChoice
from seka_rag.bank.sensitivity import bank_sensitivity
from seka_rag.demo.trials import demo_triples
from seka_rag.errors import LearningError, SettingError
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.hooks import recording
from seka_rag.hf.identity import identify
from seka_rag.learning import statistics
from seka_rag.learning.calibrate import Groundwork
from seka_rag.learning.experts import learn_experts
from seka_rag.learning.learn import bank_from_statistics, statistics_sensitivity
from seka_rag.learning.settings import LearningSettings
from seka_rag.learning.statistics import collect_statistics, triple_prompts
from seka_rag.ops.projection import rank_for_energy

TRIPLES = demo_triples(24)


@pytest.fixture(scope="module")
def tokenizer():
    return demo_tokenizer()


def keys_of(model, tokenizer, triple):
    """Layer -> the answer's keys ``[n, heads, d]`` in each of three prompts, one pass each, tokens by characters."""
    found = []
    for prompt in triple_prompts(triple):
        encoding = tokenizer(prompt.text, return_offsets_mapping=True)
        (span,) = prompt.spans
        marked = torch.tensor(oracle.token_overlaps(encoding["offset_mapping"], [(span.start, span.end)]))
        with torch.no_grad(), recording(find_key_sites(model)) as keys:
            model(torch.tensor([encoding["input_ids"]]))
        found.append({layer: k[0, marked] for layer, k in keys.items()})
    return found


def test_learned_subspaces_equal_the_oracle(any_model, tokenizer):
    triples = TRIPLES[:12]
    bank = learn_bank(any_model, triples, tokenizer=tokenizer, energy=0.8, batch_size=5)
    keys = [keys_of(any_model, tokenizer, triple) for triple in triples]
    sites = find_key_sites(any_model)
    hybrid = 0 not in sites.modules  # what comes before layer 1 hardly sees the question
    for layer, head in ((2, 0), (2, sites.heads - 1)) if hybrid else ((1, 0), (2, sites.heads - 1)):
        parts = [torch.cat([k[layer][:, head] for k in prompts]) for prompts in zip(*keys, strict=True)]
        p, rank = oracle.learned_projection(parts[0].numpy(), parts[1].numpy(), 0.8)
        assert bank.ranks[layer, head] == rank
        assert torch.allclose(bank.projection(layer)[head], torch.tensor(p, dtype=torch.float32), atol=2e-3)
        gap = (parts[1] - parts[2]).norm(dim=-1).mean()
        assert bank.gap[layer, head] == pytest.approx(float(gap), rel=1e-3)


def test_singular_values_are_kept_with_their_columns(qwen3, tokenizer, tmp_path):
    bank = learn_bank(qwen3, TRIPLES, tokenizer=tokenizer, energy=0.8, best=0.5)
    statistics = collect_statistics(qwen3, tokenizer, TRIPLES)
    for layer, u in bank.positive.items():
        omega = statistics.relevant[layer] / statistics.tokens
        # a left singular vector u of Omega has |u^T Omega| = its singular value
        expected = (u.double().mT @ omega).norm(dim=-1)
        assert torch.allclose(bank.singular_values[layer].double(), expected, rtol=1e-4, atol=1e-6)
        assert torch.equal(bank.singular_values[layer] > 0, u.abs().amax(1) > 0)
    again = ProjectionBank.load(bank.save(tmp_path / "bank"))
    assert all(torch.equal(again.singular_values[i], s) for i, s in bank.singular_values.items())
    scaled = ProjectionBank(
        bank.model, bank.positive, singular_values={i: 2 * s for i, s in bank.singular_values.items()}
    )
    assert scaled.digest != ProjectionBank(bank.model, bank.positive, singular_values=bank.singular_values).digest


def test_dead_directions_are_never_kept():
    singular_values = torch.tensor([[3.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]).double()
    assert rank_for_energy(singular_values, 1.0).tolist() == [2, 4, 0]


def test_layer_0_can_never_be_steered(any_model, tokenizer):
    bank = learn_bank(any_model, TRIPLES, tokenizer=tokenizer)
    if "absolute positions" in find_key_sites(any_model).layout.note:  # then a longer question moves layer 0 too
        assert 0 < bank.gap[0].max() < bank.gap[2].min()
    else:
        assert 0 not in bank.positive
        assert bank.gap[0].abs().max() < 1e-5
    assert (bank.gap[2] > 1e-3).all()
    assert set(bank.positive) <= set(find_key_sites(any_model).modules)


def test_parts_learned_apart_add_up_to_the_whole(qwen3, tokenizer):
    whole = collect_statistics(qwen3, tokenizer, TRIPLES)
    parts = collect_statistics(qwen3, tokenizer, TRIPLES[:7]) + collect_statistics(qwen3, tokenizer, TRIPLES[7:])
    assert (parts.tokens, parts.triples) == (whole.tokens, whole.triples)
    a, b = (bank_from_statistics(identify(qwen3), s) for s in (whole, parts))
    assert all(torch.allclose(a.projection(i), b.projection(i), atol=1e-4) for i in a.positive)


def test_how_prompts_are_batched_makes_no_difference(qwen3, tokenizer, monkeypatch):
    whole = collect_statistics(qwen3, tokenizer, TRIPLES)
    one_by_one = collect_statistics(qwen3, tokenizer, TRIPLES[::-1], batch_size=1)
    monkeypatch.setitem(statistics._PASS_TOKENS, "cpu", 1)  # a pass holds at least one row
    alone = collect_statistics(qwen3, tokenizer, TRIPLES, batch_size=100)
    for name in ("relevant", "irrelevant", "mean_relevant", "gap"):
        for other in (one_by_one, alone):
            assert torch.allclose(getattr(other, name), getattr(whole, name), rtol=1e-5, atol=1e-4), name
            assert (other.tokens, other.triples, other.skipped) == (whole.tokens, whole.triples, 0)


def test_a_prompt_is_run_once_and_only_to_the_end_of_its_answer(qwen3, tokenizer, monkeypatch):
    monkeypatch.setattr(statistics, "PROMPTS", 0)  # those of the mean queries
    context = "Ada lives in Paris. Alan lives in Rome."
    answers = [Span(context.index(word), context.index(word) + len(word)) for word in ("Paris", "Rome")]
    questions = ("Where does Ada live?", "Where does Alan live?")
    one, other = (
        ContrastiveTriple(context, answer, *(questions[:: 1 if i == 0 else -1])) for i, answer in enumerate(answers)
    )
    seen = []
    with qwen3.model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True):
        both = collect_statistics(qwen3, tokenizer, [one, other])
    # of the six prompts three are the beginning of another: three rows, the longest of which ends with "Rome"
    assert sum(len(kwargs["input_ids"]) for kwargs in seen) == 3
    longest = max(len(tokenizer(p.text[: p.spans[0].end])["input_ids"]) for p in triple_prompts(other))
    assert max(kwargs["input_ids"].shape[1] for kwargs in seen) == longest
    apart = collect_statistics(qwen3, tokenizer, [one]) + collect_statistics(qwen3, tokenizer, [other])
    assert torch.allclose(both.relevant, apart.relevant, rtol=1e-5, atol=1e-5)
    assert torch.allclose(both.irrelevant, apart.irrelevant, rtol=1e-5, atol=1e-5)
    assert torch.allclose(both.gap, apart.gap, rtol=1e-5, atol=1e-5)


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5).map(tuple), min_size=1, max_size=12))
def test_rows_hold_every_prompt_and_none_is_within_another(prompts):
    rows, of_prompt = statistics.distinct_rows(prompts)
    assert all(rows[r][: len(p)] == p for r, p in zip(of_prompt, prompts, strict=True))
    assert not any(a is not b and b[: len(a)] == a for a in rows for b in rows)
    assert set(rows) <= set(prompts)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 100))
def test_groups_of_rows_keep_to_their_size(lengths, tokens):
    groups = list(statistics.row_groups(lengths, tokens))
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert all(len(group) == 1 or len(group) * max(lengths[i] for i in group) <= tokens for group in groups)


def test_a_model_that_looks_ahead_is_refused(tokenizer):
    with pytest.raises(LearningError, match="not causal"):
        learn_bank(tiny_model("gemma3_text", use_bidirectional_attention=True), TRIPLES, tokenizer=tokenizer)


def test_signs_are_fixed_towards_relevant_keys(qwen3, tokenizer):
    bank = learn_bank(qwen3, TRIPLES, tokenizer=tokenizer)
    statistics = collect_statistics(qwen3, tokenizer, TRIPLES)
    for layer, u in bank.positive.items():
        along = torch.einsum("hd,hdj->hj", statistics.mean_relevant[layer].float(), u)
        assert (along >= -1e-3).all()


def test_heads_are_chosen_by_one_rule():
    gap = torch.tensor([[0.0, 0.0], [0.3, 0.1], [0.2, 0.5]])
    assert HeadChoice().choose(gap, 6).tolist() == [[False, False], [True, True], [True, True]]
    assert HeadChoice(min_gap=0.2).choose(gap, 6).tolist() == [[False, False], [True, False], [True, True]]
    assert HeadChoice(best=1 / 3).choose(gap, 6).tolist() == [[False, False], [True, False], [False, True]]
    assert HeadChoice(best=1.0).choose(gap, 6).tolist() == HeadChoice().choose(gap, 6).tolist()
    # the quantiles of .1 .2 .3 .5
    assert HeadChoice(quantile=0.0).choose(gap, 6).tolist() == HeadChoice().choose(gap, 6).tolist()
    assert HeadChoice(quantile=0.5).choose(gap, 6).tolist() == [[False, False], [True, False], [False, True]]
    assert HeadChoice(heads=[(1, 1), (2, 0)]).choose(gap, 6).tolist() == [[False, False], [False, True], [True, False]]


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"min_gap": 0.1, "best": 0.5}, "min_gap and best"),
        ({"min_gap": float("nan")}, "finite"),
        ({"best": 0.0}, "share in"),
        ({"quantile": 1.0}, r"quantile=1\.0"),
        ({"heads": []}, "heads is empty"),
    ],
)
def test_rules_that_mean_nothing_are_refused_before_the_model_runs(qwen3, tokenizer, rule, says):
    def ran(*_):
        raise AssertionError("the model ran")

    with qwen3.model.register_forward_pre_hook(ran), pytest.raises(SettingError, match=says):
        learn_bank(qwen3, TRIPLES, tokenizer=tokenizer, **rule)


def test_heads_can_be_named(qwen3, tokenizer):
    bank = learn_bank(qwen3, TRIPLES, tokenizer=tokenizer, heads=[(2, 1), (1, 0)])
    assert (bank.ranks > 0).tolist() == [[False, False], [True, False], [False, True]]
    assert bank.learning.heads == "2 by name"
    with pytest.raises(LearningError, match=r"head \(0, 1\) has no relevance gap"):
        learn_bank(qwen3, TRIPLES, tokenizer=tokenizer, heads=[(0, 1)])
    with pytest.raises(SettingError, match=r"head \(3, 0\): the model has 3 layers of 2 heads"):
        learn_bank(qwen3, TRIPLES, tokenizer=tokenizer, heads=[(3, 0)])


def test_heads_that_are_not_chosen_have_no_subspace(qwen3, tokenizer):
    bank = learn_bank(qwen3, TRIPLES, tokenizer=tokenizer, best=0.2)
    assert int((bank.ranks > 0).sum()) == 1
    assert bank.learning.heads == "best 20%"


def test_the_best_share_counts_only_heads_that_have_keys(tokenizer):
    hybrid = tiny_model("qwen3_next")  # attention in layers 1 and 2, two heads each
    bank = learn_bank(hybrid, TRIPLES, tokenizer=tokenizer, best=0.5)
    assert (bank.ranks > 0).sum(1).tolist() == [0, 0, 2]


def test_a_bank_of_a_hybrid_counts_shares_as_learning_does(tokenizer):
    kinds = ["linear_attention", "linear_attention", "linear_attention", "full_attention"] * 3
    hybrid = tiny_model("qwen3_next", num_hidden_layers=12, layer_types=kinds)
    found = collect_statistics(hybrid, tokenizer, TRIPLES)
    bank, few = (bank_from_statistics(identify(hybrid), found, best=share) for share in (1.0, 0.2))
    assert (int((few.ranks > 0).sum()), bank.head_count) == (1, 6)
    assert torch.equal(bank.select(best=0.2).ranks, few.ranks)
    assert [row.heads for row in bank_sensitivity(bank, (0.2, 0.5))] == [1, 3]
    assert [row.heads for row in statistics_sensitivity(found, (0.2, 0.5))] == [1, 3]
    unused: Any = None
    ground = Groundwork(unused, 0, 0, unused, [], [], bank, torch.arange(24.0).view(12, 2))
    assert ground.begin.nonzero().tolist() == [[11, 1]]  # a tenth of six


def test_an_answer_of_other_tokens_is_skipped_and_counted(qwen3):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # merges "b a": behind "relevant b" the answer "a" disappears into a longer token
    vocabulary = {c: i for i, c in enumerate("abcdefghijklmnopqrstuvwxyzCQ: \n?.")}
    backend = Tokenizer(models.BPE({**vocabulary, ": a": 40, " a": 41, "b a": 42}, [(" ", "a"), ("b", " a")]))
    backend.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    fine = ContrastiveTriple("c a", Span(0, 1), "b?", "d?")
    unmarked = ContrastiveTriple("c a", Span(0, 1, weight=0.0), "b?", "d?")
    found = collect_statistics(qwen3, tokenizer, [fine, unmarked, fine])
    assert (found.triples, found.skipped) == (2, 1)
    with pytest.raises(LearningError, match=r"none of the 1 triples could be used \(1 skipped\)"):
        collect_statistics(qwen3, tokenizer, [unmarked])


def test_learning_leaves_the_model_as_it_was(qwen3, tokenizer):
    qwen3.train()
    try:
        learn_bank(qwen3, TRIPLES[:3], tokenizer=tokenizer)
        assert qwen3.training
    finally:
        qwen3.eval()
    assert not any(m._forward_hooks for m in qwen3.modules())


def test_bad_arguments_say_what_to_do(qwen3, tokenizer):
    with pytest.raises(SettingError, match="energy=1.5"):
        learn_bank(qwen3, TRIPLES, tokenizer=tokenizer, energy=1.5)
    with pytest.raises(LearningError, match="no triples"):
        learn_bank(qwen3, [], tokenizer=tokenizer)
    with pytest.raises(SettingError, match="tokenizer"):
        learn_bank(qwen3, TRIPLES)
    with pytest.raises(SettingError, match="unknown setting 'energie': did you mean 'energy'"):
        learn_bank(qwen3, TRIPLES, tokenizer=tokenizer, energie=0.5)
    with pytest.raises(SettingError, match="batch_size=0: give at least 1"):
        learn_bank(qwen3, TRIPLES, tokenizer=tokenizer, batch_size=0)
    with pytest.raises(LearningError, match="largest relevance gap is"):
        learn_bank(qwen3, TRIPLES, tokenizer=tokenizer, min_gap=1e6)
    broken = tiny_model("qwen3")
    with torch.no_grad():
        broken.model.layers[1].self_attn.k_norm.weight.fill_(float("inf"))
    with pytest.raises(LearningError, match="not finite"):
        learn_bank(broken, TRIPLES, tokenizer=tokenizer)


def test_settings_as_one_object_are_settings_by_name(qwen3, tokenizer):
    """For a bank, for experts and for statistics; a name wins over the object."""
    settings = LearningSettings(energy=0.7, best=0.5, negative=True, suggested_gain=0.25)
    by_name = learn_bank(qwen3, TRIPLES, tokenizer=tokenizer, energy=0.7, best=0.5, negative=True, suggested_gain=0.25)
    statistics = collect_statistics(qwen3, tokenizer, TRIPLES)
    others = [
        learn_bank(qwen3, TRIPLES, settings, tokenizer=tokenizer),
        learn_experts(qwen3, {"one": TRIPLES}, settings, tokenizer=tokenizer)["one"],
        bank_from_statistics(identify(qwen3), statistics, settings),
        learn_bank(qwen3, TRIPLES, replace(settings, energy=0.9), tokenizer=tokenizer, energy=0.7),
    ]
    assert {bank.digest for bank in others} == {by_name.digest}
    assert (by_name.suggested_gain, by_name.learning.energy, by_name.learning.heads) == (0.25, 0.7, "best 50%")


@pytest.mark.parametrize("setting", [{"energy": 0.0}, {"energy": float("nan")}, {"suggested_gain": float("inf")}])
def test_settings_that_mean_nothing(setting):
    with pytest.raises(SettingError, match=next(iter(setting))):
        LearningSettings(**setting)
