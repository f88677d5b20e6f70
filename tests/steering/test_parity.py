"""Exact outputs of the authors' code, number by number."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from seka_rag import AdaSeka, ExpertBank, ProjectionBank, Seka, route, steer
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.hooks import recording
from seka_rag.hf.identity import identify
from seka_rag.learning.learn import bank_from_statistics
from seka_rag.learning.statistics import KeyStatistics
from seka_rag.ops.projection import projection


@pytest.fixture(scope="module")
def golden(parity):
    return load_file(parity / "reference.safetensors")


@pytest.fixture(scope="module")
def model(parity):
    return AutoModelForCausalLM.from_pretrained(parity).eval()


@pytest.fixture(scope="module")
def bank(model, golden):
    return ProjectionBank.from_projections(
        model, dict(enumerate(golden["builder.pos_proj"])), negative=dict(enumerate(golden["builder.neg_proj"]))
    )


@pytest.mark.parametrize("prompts", ["single", "batch"])
@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("none", Seka(gain=0.0)),
        ("p0.8", Seka(gain=0.8)),
        ("p2.0", Seka(gain=2.0)),
        ("p-0.5", Seka(gain=-0.5)),
        ("p0.8_n0.2", Seka(gain=0.8, gain_neg=0.2)),
        ("p1.0_n-0.7", Seka(gain=1.0, gain_neg=-0.7)),
        ("p1.5_n0.0", Seka(gain=0.75)),  # their gain is halved as soon as a negative file is given
        ("p2.0_last2_fixed", Seka(gain=2.0, layers=(2, 3))),
    ],
)
def test_logits(model, bank, golden, prompts, name, method):
    inputs = {k: golden[f"enc.{prompts}.{k}"] for k in ("input_ids", "attention_mask", "position_ids")}
    mask = golden[f"enc.{prompts}.steer_mask"]
    with torch.no_grad(), steer(model, bank, mask, method):
        logits = model(**inputs).logits[:, -1]
    assert torch.allclose(logits, golden[f"seka.{prompts}.{name}.logits_last"], atol=1e-5)


def test_learned_projections(model, golden):
    """Their keys of layer 3, through our statistics: their projections."""
    statistics = KeyStatistics.zeros(4, 2, 16)
    statistics.add(3, *(golden[f"builder.{kind}"][0].transpose(0, 1) for kind in ("H", "Hp", "Hn")))
    statistics.tokens = golden["builder.H"].shape[2]
    check_learned(model, golden, statistics, layers=(3,))


def test_learned_projections_from_texts(model, golden, shared_parity):
    """Texts and the answer tokens that their code picked: their keys, and their projections in every layer."""
    tokenizer = AutoTokenizer.from_pretrained(shared_parity / "tiny-qwen3")
    sites = find_key_sites(model)
    statistics = KeyStatistics.zeros(4, 2, 16)
    recorded = []
    for row in json.loads((shared_parity / "spans_tiny-qwen3.json").read_text()):
        keys = []
        for kind in ("H", "Hp", "Hn"):
            ids = tokenizer(row[f"text_{kind}"], return_tensors="pt", add_special_tokens=False).input_ids
            with torch.no_grad(), recording(sites) as seen:
                model(ids)
            keys.append({layer: k[0, row[f"idx_{kind}"]] for layer, k in seen.items()})
        recorded.append(keys[0][3])
        for layer in range(4):
            statistics.add(layer, *(k[layer] for k in keys))
        statistics.tokens += len(row["idx_H"])
    assert torch.allclose(torch.cat(recorded).transpose(0, 1), golden["builder.H"][0], atol=1e-5)
    check_learned(model, golden, statistics, layers=(0, 1, 2, 3))


def check_learned(model, golden, statistics, layers):
    applied = torch.zeros_like(golden["builder.applied"])
    applied[list(layers)] = golden["builder.applied"][list(layers)]
    assert applied.any()
    for energy, name in ((0.9, "builder"), (0.75, "builder_top75")):
        learned = bank_from_statistics(identify(model), statistics, energy=energy, negative=True)
        if energy == 0.9:
            assert torch.equal(learned.ranks[applied], golden["builder.k_pos"][applied])
        for layer, head in applied.nonzero().tolist():
            ours, theirs = learned.projection(layer)[head], golden[f"{name}.pos_proj"][layer, head]
            assert torch.allclose(ours, theirs, atol=1e-5)
            tail = projection(learned.negative[layer])[head]
            assert torch.allclose(tail, golden[f"{name}.neg_proj"][layer, head], atol=1e-5)


def experts_of(model, golden):
    """Their three experts, all columns; NaN there is a head that the expert lacks."""
    banks = {}
    for name in ("expert_0", "expert_1", "expert_2"):
        u, s = golden[f"ada.{name}.U"].nan_to_num(), golden[f"ada.{name}.S"].nan_to_num()
        banks[name] = ProjectionBank(identify(model), dict(enumerate(u)), singular_values=dict(enumerate(s)))
    return ExpertBank(banks)


@pytest.mark.parametrize("prompts", ["single", "batch"])
@pytest.mark.parametrize(
    ("name", "top_k", "gain"),
    [
        ("weighted_top_k.k5", 5, 0.5),
        ("weighted_top_k.k5", 5, 1.0),
        ("weighted_top_k.k5", 5, 2.0),
        ("weighted_top_k.k3", 3, 1.0),
    ],
)
def test_adaptive_logits(model, golden, prompts, name, top_k, gain):
    """Their coefficients (of the first row, for all rows) as given weights; everything behind them is ours."""
    stored = golden[f"ada.{prompts}.{name}.coefficients"]

    def theirs(query, experts):
        return stored[experts.layer][experts.heads].expand(len(query), -1, -1)

    inputs = {k: golden[f"enc.{prompts}.{k}"] for k in ("input_ids", "attention_mask", "position_ids")}
    method = AdaSeka(gain=gain, top_k=top_k, router=theirs)
    with torch.no_grad(), steer(model, experts_of(model, golden), golden[f"enc.{prompts}.steer_mask"], method):
        logits = model(**inputs).logits[:, -1]
    assert torch.allclose(logits, golden[f"ada.{prompts}.{name}.f{gain}.logits_last"], atol=1e-5)


@pytest.mark.parametrize("prompts", ["single", "batch"])
def test_adaptive_coefficients(model, golden, prompts):
    """The paper's formula on the queries that it means: unsteered, of the right layer, masked, row by row."""
    experts = experts_of(model, golden)
    ids, attention = (golden[f"enc.{prompts}.{k}"] for k in ("input_ids", "attention_mask"))
    weights = route(model, experts, AdaSeka(router="signed", top_k=5), ids, attention)
    wanted = golden[f"ada.{prompts}.corrected_coefficients"]  # [B, L, H, M]
    everywhere = torch.stack([golden[f"ada.expert_{m}.S"].isfinite().all(-1) for m in range(3)]).all(0)
    assert everywhere.sum() == 4
    for layer, head in everywhere.nonzero().tolist():
        assert torch.allclose(weights[layer][:, head], wanted[:, layer, head], atol=1e-4)
    # one missing expert makes theirs uniform; ours gives it no weight and routes among the others
    lacking = (~everywhere & golden["ada.expert_0.S"].isfinite().all(-1)).nonzero().tolist()
    assert lacking
    for layer, head in lacking:
        assert torch.allclose(wanted[:, layer, head], torch.tensor(1 / 3))
        assert (weights[layer][:, head, 2] == 0).all()
        assert weights[layer][:, head].abs().amax() == 1
