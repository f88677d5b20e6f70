"""Unknown families are proven or refused; the check finds wrong sites."""

import gc
from dataclasses import replace

import pytest
import torch
from tiny import KINDS, random_bank, tiny_model

from seka_rag import ProjectionBank, Seka, steer
from seka_rag.errors import SteeringError, UnsupportedModelError
from seka_rag.hf import layouts, probe
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.layouts import Site
from seka_rag.hf.sites import KeySites, sites_of
from seka_rag.hf.verify import verify_key_sites

IDS = torch.arange(30, 42)[None]
MASK = torch.zeros(1, 12, dtype=torch.bool)
MASK[0, 3:6] = True


@pytest.fixture
def unknown(monkeypatch):
    """A model of a family that the table does not have any more."""

    def make(family):
        model = tiny_model(family)
        monkeypatch.delitem(layouts.LAYOUTS, family.split(":")[0], raising=False)
        monkeypatch.delitem(layouts.REFUSED, family.split(":")[0], raising=False)
        return model

    return make


def steered(model, bank):
    with torch.no_grad(), steer(model, bank, MASK, Seka(gain=1.0)) as report:
        return model(IDS).logits, report


@pytest.mark.parametrize(
    "family", [*sorted(set(KINDS) - {"falcon:new_decoder_architecture"}), "gpt2", "smollm3", "stablelm"]
)
def test_probing_finds_the_site_of_the_table_and_says_so(family, unknown):
    known = tiny_model(family)
    sites, bank = find_key_sites(known), random_bank(known)
    wanted, report = steered(known, bank)
    assert not report.warnings
    model = unknown(family)
    found = find_key_sites(model)
    assert (found.layout.key, set(found.modules)) == (sites.layout.key, set(sites.modules))
    assert (found.heads, found.head_dim, found.groups) == (sites.heads, sites.head_dim, sites.groups)
    assert found.layout.query == sites.layout.query
    logits, report = steered(model, bank)
    assert torch.equal(logits, wanted)
    assert "found by probing" in report.warnings[0]


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("hunyuan_v1_dense", "no module of a layer gives the key before rotary"),
        ("nanochat", "no module of a layer gives the key before rotary"),
        ("llama4_text", "no module of a layer gives the key before rotary"),
        ("falcon:new_decoder_architecture", "no module of a layer gives the key before rotary"),
        ("mimo_v2_flash", "cache keys of different shapes"),
        ("deepseek_v3", "latent attention"),
        ("deepseek_v4", "also changes other keys or values"),
        ("t5", "keeps no keys in a cache"),
    ],
)
def test_what_cannot_be_proven_is_refused_with_what_was_tried(family, why, unknown):
    model = unknown(family)
    for _ in range(2):
        with pytest.raises(UnsupportedModelError, match=f"{family.split(':')[0]}' is not known.*{why}"):
            find_key_sites(model)


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("deepseek_v2", "latent attention"),
        ("deepseek_v4", "its keys are its values"),
        ("hunyuan_v1_dense", "norms its keys after rotary"),
    ],
)
def test_families_that_are_refused(family, why):
    with pytest.raises(UnsupportedModelError, match=f"'{family}' cannot be steered: .*{why}"):
        find_key_sites(tiny_model(family))


def test_no_transformers_model():
    with pytest.raises(UnsupportedModelError, match="not a transformers model"):
        find_key_sites(torch.nn.Linear(2, 2))


def test_a_model_is_probed_once_and_given_back_as_it_was(unknown):
    model = unknown("qwen3").train()
    passes = []
    model.model.register_forward_hook(lambda *args: passes.append(1))
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    assert find_key_sites(model).layout == find_key_sites(model).layout
    assert len(passes) == 3  # the search, and a plain and an edited pass of the check
    assert model.training
    assert hooks == sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    before = len(probe._probed)
    del model
    gc.collect()
    assert len(probe._probed) == before - 1


def test_known_families_are_not_probed(qwen3):
    passes = []
    handle = qwen3.model.register_forward_hook(lambda *args: passes.append(1))
    find_key_sites(qwen3)
    handle.remove()
    assert not passes


@pytest.mark.parametrize(
    ("family", "key", "why"),
    [
        (
            "qwen3",
            Site("self_attn.k_proj", "BT(HD)"),
            "layer 0 of this qwen3 model.*at position 0 the tapped key is not",
        ),
        ("qwen3", Site("self_attn.v_proj", "BT(HD)"), "at position 0 the tapped key is not"),
        ("gpt2", Site("attn.c_attn", "BT(Hqkv)"), "at position 0 the tapped key is not"),
        ("gpt2", Site("attn.c_attn", "BT(qvk)"), "at position 0 the tapped key is not"),
        ("gemma3_text", Site("self_attn.k_norm", "BTHD"), "the cache has keys"),
        ("llama", Site("self_attn.q_proj", "BT(HD)"), "the cache has keys"),
    ],
)
def test_the_check_finds_a_wrong_site(family, key, why):
    model = tiny_model(family)
    layout = replace(find_key_sites(model).layout, key=key)
    with pytest.raises(UnsupportedModelError, match=why):
        verify_key_sites(model, sites_of(model, layout))


def test_the_check_finds_an_edit_that_is_lost(qwen3):
    class Ignoring(KeySites):
        def write(self, output, keys):
            return output

    with pytest.raises(UnsupportedModelError, match="does not reach the cache"):
        verify_key_sites(qwen3, Ignoring(**vars(find_key_sites(qwen3))))


def test_a_model_that_is_not_built_as_its_family_is():
    model = tiny_model("llama")
    del model.model.layers[1].self_attn.k_proj
    with pytest.raises(UnsupportedModelError, match=r"not built as its family.*self_attn\.k_proj"):
        find_key_sites(model)


@pytest.mark.parametrize(
    ("family", "settings"), [("olmo", {"clip_qkv": 8.0}), ("mpt", {"attn_config": {"clip_qkv": 6.0}})]
)
def test_keys_that_are_clipped_after_the_site_are_refused(family, settings):
    with pytest.raises(UnsupportedModelError, match=r"sets (attn_config\.)?clip_qkv"):
        find_key_sites(tiny_model(family, **settings))


def test_a_layer_without_attention_is_never_steered():
    model = tiny_model("qwen3_next")
    p = torch.eye(16).expand(2, 16, 16)
    bank = ProjectionBank.from_projections(model, {0: p, 1: p})
    with pytest.raises(SteeringError, match=r"layers \[0\] keep no keys"), steer(model, bank, MASK, Seka(gain=1.0)):
        pass
