"""A bank knows its model: configuration by refusal, weights by a warning."""

import copy

import pytest
import torch
from tiny import random_bank, tiny_model
from torch import nn
from transformers import AutoModelForCausalLM

from seka_rag import Prompt, Seka, SteeredModel, steer
from seka_rag.bank.cache import bank_folder
from seka_rag.errors import BankError
from seka_rag.hf.identity import fingerprint, identify


def test_the_identity_names_each_field_that_differs(qwen3, make_bank):
    wider = identify(tiny_model("qwen3", num_key_value_heads=4))
    bank = make_bank(qwen3)
    with pytest.raises(BankError, match=r"config_digest .*heads \(bank: 2, model: 4\)"):
        bank.model.check(wider)
    bank.model.check(identify(qwen3))


def test_one_checkpoint_has_one_fingerprint_in_any_precision(tmp_path):
    saved = tiny_model("qwen3").to(torch.bfloat16)
    saved.save_pretrained(tmp_path / "bf16")
    tiny_model("qwen3").save_pretrained(tmp_path / "fp32")
    loaded = {
        (kind, dtype): identify(AutoModelForCausalLM.from_pretrained(tmp_path / kind, dtype=dtype))
        for kind in ("bf16", "fp32")
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
    }
    for kind in ("bf16", "fp32"):
        whole = loaded[kind, torch.float32]
        assert whole.weights.keys() == {"bfloat16", "float16"}
        for dtype, rounding in ((torch.bfloat16, "bfloat16"), (torch.float16, "float16")):
            half = loaded[kind, dtype]
            assert half.weights == {rounding: whole.weights[rounding]}
            assert whole.doubts(half) == half.doubts(whole) == []
        assert loaded[kind, torch.bfloat16].doubts(loaded[kind, torch.float16]) == []  # unknown is no doubt


@pytest.mark.parametrize("part", ["embed_tokens", "layers.1.self_attn.v_proj", "layers.2.mlp.up_proj", "norm"])
def test_a_change_of_any_part_is_noticed(part):
    base, tuned = tiny_model("qwen3"), tiny_model("qwen3")
    with torch.no_grad():
        tuned.model.get_submodule(part).weight.mul_(1.01)
    (doubt,) = identify(base).doubts(identify(tuned))
    assert "weights differ" in doubt


def test_a_fine_tuned_model_is_steered_with_a_warning(qwen3, tokenizer):
    tuned = copy.deepcopy(qwen3)
    with torch.no_grad():
        tuned.model.layers[0].mlp.down_proj.weight.add_(0.01)
    bank = random_bank(qwen3)
    prompt = Prompt("Ada lives in Lyon.").highlight("Lyon")
    report = SteeredModel(tuned, tokenizer, bank=bank).generate(prompt, max_new_tokens=1).report
    assert report.tokens_edited == report.tokens_marked > 0
    assert [w for w in report.warnings if "weights differ" in w]
    assert not SteeredModel(qwen3, tokenizer, bank=bank).generate(prompt, max_new_tokens=1).report.warnings


def test_an_adapter_is_noticed(qwen3):
    from peft import LoraConfig, get_peft_model

    bank = random_bank(qwen3)
    adapted = get_peft_model(copy.deepcopy(qwen3), LoraConfig(target_modules=["q_proj"], r=2))
    (doubt,) = bank.model.doubts(identify(adapted))
    assert "adapted model" in doubt


def test_the_fingerprint_is_taken_once_for_requests_and_anew_for_learning(monkeypatch):
    from seka_rag.hf import identity

    model, calls = tiny_model("qwen3", seed=5), []
    monkeypatch.setattr(identity, "fingerprint", lambda m: calls.append(m) or fingerprint(m))
    bank = random_bank(model)
    assert len(calls) == 2  # tiny.random_bank asks, and from_projections
    ids, mask = torch.tensor([[5, 6, 7]]), torch.tensor([[False, True, True]])
    for _ in range(3):
        with torch.no_grad(), steer(model, bank, mask, Seka(gain=1.0)):
            model(ids)
    assert len(calls) == 2
    with torch.no_grad():
        model.model.norm.weight.add_(1)
    assert random_bank(model).model.weights != bank.model.weights
    before = len(identity._fingerprints)
    del model, calls[:]
    import gc

    gc.collect()
    assert len(identity._fingerprints) < before


def _quantised():
    quantization = pytest.importorskip("torchao.quantization")

    model = tiny_model("qwen3")
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    return model


def _quanto():
    from optimum.quanto import freeze, qint8, quantize

    model = tiny_model("qwen3")
    quantize(model, weights=qint8)
    freeze(model)
    return model


def _declared():
    model = tiny_model("qwen3")
    model.config.quantization_config = {"quant_method": "gptq"}
    return model


def _offloaded():
    model = tiny_model("qwen3")
    model.model.layers[1].to("meta")
    return model


def _sharded():
    model = tiny_model("qwen3")
    model._tp_size = 2
    return model


def _mixed():
    model = tiny_model("qwen3").half()
    model.model.norm.to(torch.bfloat16)
    return model


@pytest.mark.parametrize("make", [_quantised, _quanto, _declared, _offloaded, _sharded, _mixed])
def test_weights_that_cannot_be_read_are_unknown_and_no_doubt(make, qwen3):
    identity = identify(make())
    assert identity.weights == {}
    identify(qwen3).check(identity)
    assert identify(qwen3).doubts(identity) == []


def test_tied_and_empty_weights():
    tied = tiny_model("qwen3", tie_word_embeddings=True)
    assert fingerprint(tied.model) == identify(tied).weights != {}
    assert fingerprint(nn.Module()) == {}


def test_names_and_revisions_of_the_hub(qwen3, tmp_path):
    def at(revision, name="owner/model"):
        return base.model_copy(update={"name": name, "revision": revision, "weights": {}})

    base = identify(qwen3)
    assert (base.name, base.revision) == (None, None)
    (doubt,) = at("a" * 40).doubts(at("b" * 40))
    assert "a" * 40 in doubt
    assert "b" * 40 in doubt
    assert at("a").doubts(at("a")) == at("a").doubts(at(None)) == at("a").doubts(at("b", "owner/other")) == []
    same_weights = at("a").model_copy(update={"weights": {"bfloat16": "1"}})
    assert same_weights.doubts(same_weights.model_copy(update={"revision": "b"})) == []
    named = copy.deepcopy(qwen3)
    named.config._name_or_path, named.config._commit_hash = "owner/model", "c" * 40
    assert (identify(named).name, identify(named).revision) == ("owner/model", "c" * 40)
    named.config._name_or_path = str(tmp_path)
    assert identify(named).name is None  # a path of this machine is not published


def test_a_model_trained_again_in_the_same_folder_gets_its_own_cached_bank(tmp_path):
    one, two = (identify(tiny_model("qwen3", seed=seed)) for seed in (0, 1))
    assert one.config_digest == two.config_digest
    assert bank_folder(str(tmp_path), one) != bank_folder(str(tmp_path), two)
    assert bank_folder(str(tmp_path), one) == bank_folder(str(tmp_path), one)


def test_a_number_written_in_another_way_is_the_same_model():
    def digest(theta, eps):
        rope = {"rope_type": "default", "rope_theta": theta}
        return identify(tiny_model("llama", rope_parameters=rope, rms_norm_eps=eps)).config_digest

    assert digest(100_000, 1e-5) == digest(100_000.0, 1e-5) == digest(1e5, 9.999999747378752e-06)  # JSON, GGUF
    assert len({digest(100_000, 1e-5), digest(100_001, 1e-5), digest(100_000, 1.001e-5)}) == 3
