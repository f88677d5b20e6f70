"""The parts of the plugin by themselves, without vLLM: which keys of a step change and how, plans, and counts for reports."""

from __future__ import annotations

from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import oracle
import pytest
import torch
from prometheus_client import CollectorRegistry
from seka_vllm import VllmModel
from seka_vllm.core import Progress, Reports, block_keys
from seka_vllm.frontend import with_report
from seka_vllm.highlights import Highlights
from seka_vllm.metrics import Metrics
from seka_vllm.profiles import Profile, plan_edits
from seka_vllm.rotary import Gates, SteeredRotary
from seka_vllm.runner import Steering
from seka_vllm.settings import BankSettings, engine_settings
from tiny import random_bank, random_expert, tiny_model
from vllm_engines import with_vectors

from seka_rag import AdaSeka, ExpertBank, KeyBias, KeyVector, Seka
from seka_rag.errors import BankError, SettingError, UnsupportedModelError
from seka_rag.hf.find import find_key_sites


class Straight(torch.nn.Module):
    """Rotary positions that turn nothing."""

    def forward(self, positions, query, key=None):
        return query, key


@pytest.fixture(scope="module")
def llama():
    model = tiny_model("llama")
    return model, with_vectors(random_bank(model))


@pytest.mark.parametrize("fixed", [False, True])
def test_the_keys_of_highlighted_rows_change_and_no_others(llama, fixed):
    """In both ways the same, by the equations of two banks: v = w v and k = k + w g P k."""
    _, bank = llama
    banks = [Profile(bank, KeyVector(), False), Profile(bank, Seka(gain=0.7), False)]
    plans = [profile.method.edits(bank, None) for profile in banks]
    gates = Gates(2, 16, torch.device("cpu"), fixed=fixed)
    rotary = SteeredRotary(Straight(), 1, [plan[1] for plan in plans], gates, 16)
    generator = torch.Generator().manual_seed(0)
    for rows in ([], [(0, 2, 5, 1.0), (1, 7, 9, 0.5)], [(1, 0, 1, 2.0)], []):
        key = torch.randn(11, 32, generator=generator)
        gates.fill(rows, 11)
        _, found = rotary(None, key, key)
        wanted = key.view(11, 2, 16).clone()
        for number, first, end, weight in rows:
            for head in range(2):
                old = wanted[first:end, head]
                change = bank.vectors[1][head] if number == 0 else 0.7 * old @ bank.projection(1)[head]
                wanted[first:end, head] = old + weight * change
        assert torch.allclose(found.view(11, 2, 16), wanted, atol=1e-6)
        untouched = [i for i in range(11) if not any(first <= i < end for _, first, end, _ in rows)]
        assert torch.equal(found[untouched], key[untouched])
        assert gates.seen == {(number, 1) for number, *_ in rows} or fixed
        gates.seen.clear()


def test_a_probe_and_routed_rows_are_those_of_the_oracle():
    """The last token of a prompt weighs the experts; tokens of two requests are edited by the weights of each."""
    model = tiny_model("llama")
    experts = ExpertBank({"a": random_expert(model, 1), "b": random_expert(model, 2, without=((1, 0),))})
    profile = Profile(experts, AdaSeka(gain=0.7, top_k=3, two_pass=True), False)
    edits = plan_edits(profile, model.config)
    gates = Gates(1, 16, torch.device("cpu"), fixed=False)
    generator = torch.Generator().manual_seed(0)
    key, query = (torch.randn(11, n * 16, generator=generator) for n in (2, 4))
    steering = Steering({"main": profile}, {"main": edits}, gates)

    def state(args):
        return SimpleNamespace(sampling_params=SimpleNamespace(extra_args=args))

    def step(requests, scheduled, computed, lengths):
        batch = SimpleNamespace(
            req_ids=list(requests), num_computed_tokens_cpu=np.array(computed), num_prompt_tokens=np.array(lengths)
        )
        steering.begin(SimpleNamespace(requests=requests, input_batch=batch), np.array(scheduled))
        return {
            layer: SteeredRotary(Straight(), layer, [edit], gates, 16)(None, query, key)[1]
            for layer, edit in edits.items()
        }

    probe = {"p": state({"seka_probe": True}), "q": state({"seka_probe": True})}
    found = step(probe, [6, 5], [4, 0], [10, 9])  # the prompt of q goes on in another step
    assert all(torch.equal(keys, key) for keys in found.values())
    assert list(steering.routings()) == ["p"]
    weights = steering.routings()["p"]
    pairs = [
        [(experts[n].positive[1][h].numpy(), experts[n].singular_values[1][h].numpy()) for h in range(2)] for n in "ab"
    ]
    pairs[1][0] = None
    for head in range(2):
        mean = query.view(11, 4, 16)[5, 2 * head : 2 * head + 2].mean(0).numpy()
        alpha = oracle.expert_weights(mean / np.linalg.norm(mean), [pairs[m][head] for m in range(2)], "energy", 3)
        assert profile.routing(weights)[1][head].tolist() == pytest.approx(list(alpha), abs=1e-5)
    others = [0.5] * len(weights)
    requests = {
        "plain": state(None),
        "one": state({"seka_spans": [1, 3], "seka_routing": weights}),
        "two": state({"seka_spans": [0, 2], "seka_weights": [0.5], "seka_routing": others}),
    }
    found = step(requests, [3, 4, 4], [0, 0, 0], [3, 4, 4])
    for layer, keys in found.items():
        wanted = key.view(11, 2, 16).clone()
        for row, weight, routing in ((4, 1.0, weights), (5, 1.0, weights), (7, 0.5, others), (8, 0.5, others)):
            for head in range(2):
                for m, name in enumerate("ab"):
                    u = experts[name].positive[layer][head][:, :3]
                    alpha = float(profile.routing(routing)[layer][head, m])
                    wanted[row, head] += weight * 0.7 * alpha * (u @ (u.T @ key.view(11, 2, 16)[row, head]))
        assert torch.allclose(keys.view(11, 2, 16), wanted, atol=1e-5)
    assert not torch.equal(found[1], key)


def test_one_routing_for_two_banks_is_that_of_each():
    """They may have experts on other heads, so that the same numbers mean other layers."""
    model = tiny_model("llama", num_hidden_layers=4)
    whole, part = random_expert(model, 1), random_expert(model, 2, without=((0, 0), (0, 1), (1, 0), (1, 1)))
    banks = {"one": ExpertBank({"a": whole}), "two": ExpertBank({"a": part, "b": part})}
    method = AdaSeka(two_pass=True)
    profiles = {name: Profile(bank, method, False) for name, bank in banks.items()}
    steering = Steering(profiles, {}, Gates(2, 4, torch.device("cpu"), fixed=False))
    weights = (0.5,) * sum(len(edit.heads) for edit in profiles["one"].experts.values())
    for name, profile in profiles.items():
        routing = steering._routing(Highlights(((0, 1, 1.0),), bank=name, routing=weights))
        assert routing.keys() == profile.experts.keys()


def test_experts_need_the_routing_of_a_probe(llama):
    model, bank = llama
    one = Profile(bank, KeyVector(), False)
    experts = ExpertBank({"a": random_expert(model, 1), "b": random_expert(model, 2)})
    routed = Profile(experts, AdaSeka(two_pass=True), False)
    size = sum(edit.experts.values[..., 0].numel() for edit in routed.experts.values())
    routed.check(Highlights((), probe=True), model)
    routed.check(Highlights(((0, 2, 1.0),), routing=(0.5,) * size), model)
    assert routed.weights(Highlights(((0, 2, 1.0),), routing=(0.25,) * size)) == [{"a": 0.25, "b": 0.25}]
    for profile, highlights, message in (
        (routed, Highlights(((0, 2, 1.0),)), "send the prompt with seka_probe first"),
        (routed, Highlights(((0, 2, 1.0),), routing=(0.5,) * (size - 1)), f"takes {size}"),
        (one, Highlights(((0, 2, 1.0),), routing=(0.5,)), "holds no experts"),
        (one, Highlights((), probe=True), "holds no experts"),
    ):
        with pytest.raises(SettingError, match=message):
            profile.check(highlights, model)


def test_a_method_that_fades_or_needs_queries_of_its_pass_is_no_surprise(llama, tmp_path):
    """Named by the operator it is refused; suggested by a bank it does not fade, and every report says so."""
    model, bank = llama
    bank.save(tmp_path / "bank")
    settings = BankSettings(bank=str(tmp_path / "bank"), steering=KeyVector(fade="sentence").as_dict())
    with pytest.raises(SettingError, match=r"fade='sentence', but vLLM's cache is not written back"):
        Profile.load(settings)
    bank.steering = KeyVector(fade="sentence").as_dict()
    bank.save(tmp_path / "fading")
    profile = Profile.load(BankSettings(bank=str(tmp_path / "fading")))
    assert profile.method == KeyVector()
    assert "suggests fading, which vLLM does not do" in profile.warnings(Highlights(((0, 2, 1.0),)))[-1]
    ExpertBank({"a": random_expert(model, 1)}).save(tmp_path / "experts")
    with pytest.raises(SettingError, match='"two_pass": true'):
        Profile.load(BankSettings(bank=str(tmp_path / "experts")))


def test_rows_of_a_step_are_those_of_each_request(llama):
    """Chunks, a request that decodes, plain ones, and spans that go over the end of a chunk."""
    _, bank = llama
    gates = Gates(1, 64, torch.device("cpu"), fixed=True)
    steering = Steering({"main": Profile(bank, KeyVector(), False)}, {"main": {}}, gates)

    def state(args):
        return SimpleNamespace(sampling_params=SimpleNamespace(extra_args=args))

    runner = SimpleNamespace(
        requests={
            "a": state({"seka_spans": [2, 6, 30, 40], "seka_strength": 0.5}),
            "b": state(None),
            "c": state({"seka_spans": [0, 4]}),
        },
        input_batch=SimpleNamespace(
            req_ids=["a", "b", "c"], num_computed_tokens_cpu=np.array([4, 0, 9]), num_prompt_tokens=np.array([50, 5, 8])
        ),
    )
    steering.begin(runner, np.array([30, 5, 1]))
    assert steering.edited == {"a": (4, 34)}  # c decodes
    weights = gates.weights[0, :36]
    assert weights.nonzero().flatten().tolist() == [0, 1, 26, 27, 28, 29]
    assert weights.max() == 0.5


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0}}),
        ("qwen3", {}),
        ("gemma3_text", {"sliding_window": 8, "query_pre_attn_scalar": 24}),
    ],
)
def test_a_plan_from_the_configuration_is_that_of_the_model(family, settings):
    model = tiny_model(family, num_hidden_layers=6, **settings)
    bank = random_bank(model)
    method = KeyBias(bias=1.5)
    planned, expected = (
        plan_edits(Profile(bank, method, False), model.config),
        method.edits(bank, find_key_sites(model)),
    )
    assert planned.keys() == expected.keys()
    for layer, edit in expected.items():
        assert torch.equal(planned[layer].heads, edit.heads)
        assert torch.allclose(planned[layer].vectors, edit.vectors, rtol=1e-4, atol=1e-5)


def test_a_plan_for_another_model_or_with_a_query_is_refused(llama):
    model, bank = llama
    other = tiny_model("llama", num_hidden_layers=2)
    with pytest.raises(BankError, match=r"learned for another model.*layers"):
        plan_edits(Profile(bank, KeyVector(), False), other.config)
    for form in ("mean", "request"):
        with pytest.raises(UnsupportedModelError, match="needs the end of the prompt"):
            plan_edits(Profile(bank, KeyBias(form=form), False), model.config)


def test_a_report_counts_what_was_computed_and_what_was_cached():
    progress = Progress(Highlights(((2, 6, 1.0), (10, 14, 1.0))), 20)
    assert progress.counts() == {
        "tokens_marked": 8,
        "tokens_edited": 8,
        "tokens_cached": 8,
    }  # nothing computed: all cached
    progress.add(4, 12)
    assert progress.counts() == {"tokens_marked": 8, "tokens_edited": 6, "tokens_cached": 2}
    progress.add(12, 20)
    progress.add(0, 8)  # once more, after it was preempted
    assert progress.counts() == {"tokens_marked": 8, "tokens_edited": 8, "tokens_cached": 0}


def test_a_report_follows_what_is_computed(llama):
    _, bank = llama
    about = {"method": "KeyVector", "layers": [0, 1], "heads": 4, "bank": bank.digest}
    reports = Reports({"main": Profile(bank, KeyVector(), True)}, {"main": about})
    request = SimpleNamespace(
        sampling_params=SimpleNamespace(extra_args={"seka_spans": [2, 6], "seka_strength": 0.5}), num_prompt_tokens=8
    )
    reports.note({"a": request}, {"a": (0, 4), "gone": (0, 9)})
    first = reports.news(request.seka)
    assert reports.news(request.seka) is None  # it was sent, and is sent again when it is another
    reports.note({"a": request}, {"a": (4, 8)})
    assert (first["tokens_edited"], reports.news(request.seka)["tokens_edited"]) == (2, 4)
    assert (first["gain"], first["layers"]) == (0.5, [0, 1])
    assert "fading" in first["warnings"][0]
    off = SimpleNamespace(
        sampling_params=SimpleNamespace(extra_args={"seka_spans": [2, 6], "seka_strength": 0}), num_prompt_tokens=8
    )
    reports.note({"a": off}, {"a": (0, 8)})
    assert (reports.of(off.seka)["tokens_edited"], reports.of(off.seka)["warnings"][0]) == (
        0,
        "the gain is 0: the model runs unsteered",
    )


def test_an_output_has_the_last_report_that_was_sent():
    request, other = SimpleNamespace(), {"kv": 1}
    assert (with_report(request, None), with_report(request, other)) == (None, other)
    for sent, expected in (({"seka": 1}, {"seka": 1}), (None, {"seka": 1}), (other, {"kv": 1, "seka": 1})):
        assert with_report(request, sent) == expected
    assert with_report(request, {"seka": 2}) == with_report(request, None) == {"seka": 2}


def test_metrics_leave_out_what_was_not_to_be_steered():
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for gain, marked, edited in ((1.0, 8, 8), (-0.5, 4, 3), (0.0, 9, 0)):
        metrics.count({"bank": "a", "gain": gain, "tokens_marked": marked, "tokens_edited": edited})
    names = ("seka_steered_answers_total", "seka_highlighted_tokens_total", "seka_unsteered_tokens_total")
    assert [registry.get_sample_value(name, {"bank": "a"}) for name in names] == [2, 11, 1]


def test_only_blocks_with_highlights_have_keys_of_their_own():
    def request(args):
        return SimpleNamespace(sampling_params=SimpleNamespace(extra_args=args), num_prompt_tokens=96)

    one, weaker, plain = (
        request({"seka_spans": [40, 50]}),
        request({"seka_spans": [40, 50], "seka_strength": 0.5}),
        request(None),
    )
    assert block_keys(one, 0, 32) == block_keys(one, 64, 96) == block_keys(plain, 32, 64) == []
    assert block_keys(one, 32, 64) != block_keys(weaker, 32, 64)
    assert block_keys(one, 32, 64) == block_keys(request({"seka_spans": [40, 50, 70, 80]}), 32, 64)


def test_settings():
    def config(seka):
        return SimpleNamespace(additional_config={} if seka is None else {"seka": seka})

    assert engine_settings(config(None)) is None
    settings = engine_settings(
        config({"banks": {"facts": "a/", "rules": {"bank": "b/", "steering": {"method": "Seka"}}}})
    )
    assert (settings.first, settings.banks["facts"].bank, settings.banks["rules"].steering) == (
        "facts",
        "a/",
        {"method": "Seka"},
    )
    for wrong, message in (
        ({}, "banks"),
        ({"banks": {}}, "banks"),
        ({"bank": "a/"}, "bank"),
        ({"banks": {"a": 3}}, "banks.a"),
    ):
        with pytest.raises(SettingError, match=message):
            engine_settings(config(wrong))


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_model_says_what_it_needs():
    with pytest.raises(SettingError, match=r"needs vLLM 0\.32, which is not installed"):
        VllmModel("seka-demo")
