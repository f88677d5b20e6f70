"""Every way in which vLLM computes a prompt gives the log-probabilities of transformers, steered and plain in one batch."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from seka_vllm import VllmModel
from tiny import demo_tokenizer, random_expert
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm_engines import OPTIONS, Asked, answers, engine, largest_difference, mixed, params, reference, save_tiny

from seka_rag import AdaSeka, ExpertBank, KeyBias, KeyScaling, KeyVector, Prompt, RandomProjection, Seka, SteeredModel
from seka_rag.steering.adaseka import route

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CLOSE = 1e-4
FAMILIES = {
    "gemma3_text": {"sliding_window": 64, "query_pre_attn_scalar": 32},
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
}
METHODS = [
    KeyVector(),
    KeyBias(bias=3.0),
    Seka(gain=0.8),
    Seka(gain=0.8, gain_neg=0.4),
    KeyScaling(gain=0.7),
    RandomProjection(gain=0.8),
]


def check(llm, asked, expected, record_property, name):
    difference = largest_difference(found := answers(llm, asked), expected)
    record_property(name, difference)
    print(f"\n{name}: {difference:.1e}")
    assert difference < CLOSE
    for one, (_, _, output) in zip(asked, found, strict=True):
        if one.highlights is None:
            assert output.kv_transfer_params is None
        else:
            report = output.kv_transfer_params["seka"]
            assert report["tokens_edited"] == report["tokens_marked"] == one.highlights.count
    return [output for *_, output in found]


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family, tmp_path, record_property):
    """Chunks of 64 tokens, a mixed batch, and all of it again from the prefix cache."""
    model, bank = save_tiny(tmp_path, family, **FAMILIES[family])
    asked = mixed(model.config.vocab_size)
    expected = reference(model, bank, KeyVector(), asked)
    assert largest_difference(expected[1:2], expected[:1]) > 0.01  # the same prompt, steered: it matters
    with engine(tmp_path / "model", tmp_path / "bank", KeyVector()) as llm:
        check(llm, asked, expected, record_property, f"{family}, chunks and mixed batch")
        again = check(llm, asked, expected, record_property, f"{family}, prefix cache")
        assert all(output.num_cached_tokens > 0 for output in again)
        assert again[4].kv_transfer_params["seka"]["layers"] == list(range(model.config.num_hidden_layers))


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_methods(method, tiny_llama, record_property):
    folder, model, bank = tiny_llama
    asked = mixed(model.config.vocab_size)
    if len([s for s in method.strengths if s]) > 1:  # then a request cannot have a strength of its own
        asked = [replace(one, highlights=one.highlights and replace(one.highlights, strength=None)) for one in asked]
    with engine(folder / "model", folder / "bank", method) as llm:
        expected = reference(model, bank, method, asked)
        check(llm, asked, expected, record_property, f"llama, {method!r}")


def test_experts_routed_by_a_probe(tiny_llama, tmp_path, record_property):
    """The probe gives the weights of an unsteered pass of transformers; with them the answers are its two-pass answers."""
    folder, model, _ = tiny_llama
    bank = ExpertBank({"a": random_expert(model, 1), "b": random_expert(model, 2)})
    bank.save(tmp_path / "experts")
    method = AdaSeka(gain=0.8, top_k=3, two_pass=True)
    asked = mixed(model.config.vocab_size)
    expected = reference(model, bank, method, asked)
    assert largest_difference(expected[1:2], expected[:1]) > 0.01
    with VllmModel(str(folder / "model"), bank=str(tmp_path / "experts"), steering=method, **OPTIONS) as there:
        routed = [one if one.highlights is None else probed(there.llm, one) for one in asked]
        for one in routed:
            if one.highlights is not None:
                alone = route(model, bank, method, torch.tensor([one.prompt]))
                wanted = torch.cat([alone[layer].flatten() for layer in sorted(alone)])
                assert torch.allclose(torch.tensor(one.highlights.routing), wanted, atol=1e-5)
        check(there.llm, routed, expected, record_property, "llama, AdaSeka with a probe")
        check(there.llm, routed, expected, record_property, "llama, AdaSeka with a probe, prefix cache")
        other = replace(routed[1].highlights, routing=tuple(1 - w for w in routed[1].highlights.routing))
        mixed_up = answers(there.llm, [replace(routed[1], highlights=other)])
        assert (
            largest_difference(mixed_up, expected[1:2]) > 1e-3
        )  # it is kept apart in the prefix cache, and it matters
        with pytest.raises(VLLMValidationError, match="send the prompt with seka_probe first"):
            answers(there.llm, [asked[1]])
        here = SteeredModel(model, demo_tokenizer(), bank=bank, steering=method)
        fact = "The home of Alec is in Lyon."
        prompt = Prompt(f"The home of Vera is in Turin. {fact} Which city is the home of Alec?").highlight(fact)
        found, wanted = (
            there.generate([prompt, str(prompt)], max_new_tokens=12),
            here.generate(prompt, max_new_tokens=12),
        )
        assert found[0].text == wanted.text != found[1].text
        assert found[0].report.tokens_edited == wanted.report.tokens_edited > 3
        assert found[0].report.experts[0] == pytest.approx(wanted.report.experts[0], abs=1e-5)


def probed(llm, one: Asked) -> Asked:
    """The request with the routing of a probe."""
    args = {"seka_probe": True}
    (output,) = llm.generate(
        [{"prompt_token_ids": list(one.prompt)}], SamplingParams(max_tokens=1, extra_args=args), use_tqdm=False
    )
    report = output.kv_transfer_params["seka"]
    assert report["tokens_edited"] == 0
    return replace(one, highlights=replace(one.highlights, routing=tuple(report["routing"])))


def test_whole_prompts_without_a_prefix_cache(tiny_llama, record_property):
    folder, model, bank = tiny_llama
    asked = mixed(model.config.vocab_size)
    options = {"enable_prefix_caching": False, "max_num_batched_tokens": 2048}
    with engine(folder / "model", folder / "bank", KeyVector(), **options) as llm:
        expected = reference(model, bank, KeyVector(), asked)
        check(llm, asked, expected, record_property, "llama, whole prompts, no prefix cache")


@pytest.mark.parametrize("method", [KeyVector(), Seka(gain=0.8)], ids=repr)
def test_compiled(method, tiny_llama, record_property):
    """Then every step computes the same for all tokens, with weight 0 for those that are not highlighted."""
    folder, model, bank = tiny_llama
    asked = mixed(model.config.vocab_size)
    expected = reference(model, bank, method, asked)
    with engine(folder / "model", folder / "bank", method, enforce_eager=False) as llm:
        assert llm.llm_engine.vllm_config.compilation_config.mode.name != "NONE"
        assert llm.collective_rpc("seka_describe")[0]["main"]["fixed"]
        check(llm, asked, expected, record_property, f"llama, compiled, {method!r}")
        check(llm, asked, expected, record_property, f"llama, compiled, prefix cache, {method!r}")


@pytest.mark.skipif(torch.cuda.device_count() == 1, reason="needs two GPUs, or none")
def test_tensor_parallel(tiny_llama, record_property, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    folder, model, bank = tiny_llama
    asked = mixed(model.config.vocab_size)
    expected = reference(model, bank, KeyVector(), asked)
    with engine(folder / "model", folder / "bank", KeyVector(), tensor_parallel_size=2) as llm:
        check(llm, asked, expected, record_property, "llama, tensor parallel 2")


def test_preempted_requests_and_random_arrival(tiny_llama, record_property, monkeypatch):
    """200 requests that arrive at any time, with room for about three: each is what it is alone."""
    from vllm.v1.core.sched.scheduler import Scheduler

    preempted = []
    original = Scheduler._preempt_request
    monkeypatch.setattr(
        Scheduler,
        "_preempt_request",
        lambda self, request, *a, **k: (preempted.append(request), original(self, request, *a, **k)),
    )
    folder, model, bank = tiny_llama
    steps = 40
    asked = mixed(model.config.vocab_size, 200, longest=160)
    expected = reference(model, bank, KeyVector(), asked, steps)
    with engine(folder / "model", folder / "bank", KeyVector(), num_gpu_blocks_override=18) as llm:
        found = _arriving(llm, asked, steps)
    difference = largest_difference(found, expected)
    steered = [r for r in preempted if r.sampling_params.extra_args]
    print(
        f"\n200 requests, random arrival: {difference:.1e}, {len(preempted)} preempted, {len(steered)} of them steered"
    )
    assert difference < CLOSE
    assert len(steered) > 10


def _arriving(llm, asked: list[Asked], steps: int):
    """Tokens and sparse log-probabilities of requests of which up to three arrive between two steps of the engine."""
    draw, waiting, done = random.Random(1), list(enumerate(asked)), {}
    while waiting or llm.llm_engine.has_unfinished_requests():
        for _ in range(draw.randrange(4)):
            if waiting:
                i, one = waiting.pop(0)
                llm.llm_engine.add_request(str(i), {"prompt_token_ids": list(one.prompt)}, params(one, steps, 8))
        for output in llm.llm_engine.step():
            if output.finished:
                done[int(output.request_id)] = output
    found = []
    for i in range(len(asked)):
        (answer,) = done[i].outputs
        scores = torch.full((steps, llm.llm_engine.model_config.get_vocab_size()), float("nan"))
        for row, step in zip(scores, answer.logprobs, strict=True):
            row[list(step)] = torch.tensor([value.logprob for value in step.values()])
        found.append((list(answer.token_ids), scores))
        report = (done[i].kv_transfer_params or {}).get("seka", {})
        assert report.get("tokens_edited") == (asked[i].highlights and asked[i].highlights.count)
    return found
