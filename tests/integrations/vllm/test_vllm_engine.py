"""What an engine refuses, at its start and of requests, and that steered and plain requests share no block they must not."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from seka_vllm import speed
from seka_vllm.families import check_engine
from seka_vllm.highlights import Highlights
from seka_vllm.speed import Plugin
from seka_vllm.workload import Workload
from tiny import random_expert
from vllm_engines import STEPS, Asked, answers, engine, largest_difference, mixed, params, reference, save_tiny

from seka_rag import AdaSeka, ExpertBank, KeyBias, KeyVector, Prism
from seka_rag.errors import BankError, SettingError, SteeringError, UnsupportedModelError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def llama_engine(tiny_llama):
    folder, *_ = tiny_llama
    with engine(folder / "model", folder / "bank", KeyVector()) as llm:
        yield llm


def test_the_prefix_cache_keeps_steered_and_plain_apart(llama_engine, tiny_llama, monkeypatch):
    """And without the keys of the plugin it does not: then the plain request reads steered blocks."""
    from vllm.v1.core import kv_cache_utils

    _, model, bank = tiny_llama
    prompt = mixed(model.config.vocab_size)[0].prompt
    plain, steered = Asked(prompt), Asked(prompt, Highlights(((100, 120, 1.0),)))
    stronger = Asked(prompt, Highlights(((100, 120, 1.0),), strength=2.0))
    expected = reference(model, bank, KeyVector(), [plain, steered, stronger])

    def differences():
        llama_engine.reset_prefix_cache()
        found = [answers(llama_engine, [one])[0] for one in (steered, plain, stronger, steered)]
        wanted = [expected[i] for i in (1, 0, 2, 1)]
        cached = [output.num_cached_tokens for *_, output in found]
        return [largest_difference([f], [w]) for f, w in zip(found, wanted, strict=True)], cached

    apart, cached = differences()
    assert max(apart) < 1e-4
    assert cached == [0, 96, 96, 192]  # the three blocks before the first highlight are shared, the rest is not
    monkeypatch.setattr(kv_cache_utils, "_gen_prompt_embeds_extra_hash_keys", lambda *_: [])
    mixed_up, cached = differences()
    assert mixed_up[1] > 0.1
    assert cached[1] == 192


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"seka_spans": [10, 500]}, "reaches beyond the prompt of 200 tokens"),
        ({"seka_spans": [10, 20], "seka_bank": "other"}, "no bank 'other': this engine has main"),
        ({"seka_spans": [10, 20], "seka_strength": 1e30}, "would overflow in float32"),
        ({"seka_span": [10, 20]}, "unknown arguments seka_span"),
    ],
)
def test_requests_that_cannot_be_steered(llama_engine, tiny_llama, args, message):
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    prompt = {"prompt_token_ids": list(mixed(tiny_llama[1].config.vocab_size)[0].prompt)}
    with pytest.raises(VLLMValidationError, match=message):
        llama_engine.generate([prompt], SamplingParams(max_tokens=1, extra_args=args), use_tqdm=False)
    assert answers(llama_engine, [Asked((9, 10, 11))])  # the engine goes on


def test_strength_0_is_the_plain_model_and_says_so(llama_engine, tiny_llama):
    prompt = mixed(tiny_llama[1].config.vocab_size)[0].prompt
    llama_engine.reset_prefix_cache()
    plain = answers(llama_engine, [Asked(prompt)])
    llama_engine.reset_prefix_cache()
    zero = answers(llama_engine, [Asked(prompt, Highlights(((3, 90, 1.0),), strength=0.0))])
    assert (plain[0][1] == zero[0][1]).all()
    report = zero[0][2].kv_transfer_params["seka"]
    assert (report["tokens_marked"], report["tokens_edited"]) == (87, 0)
    assert "the gain is 0" in str(report["warnings"])


def test_a_report_is_sent_once_and_each_output_has_it(llama_engine, tiny_llama, monkeypatch):
    """What the scheduler sends is packed and unpacked for each token, which a report would make several times as costly."""
    core, sent = llama_engine.llm_engine.engine_core.engine_core, []
    step = core.step_fn

    def watched():
        outputs, ran = step()
        sent.extend(o.kv_transfer_params for client in (outputs or {}).values() for o in client.outputs)
        return outputs, ran

    monkeypatch.setattr(core, "step_fn", watched)
    asked = Asked(mixed(tiny_llama[1].config.vocab_size)[0].prompt, Highlights(((100, 120, 1.0),)))
    llama_engine.llm_engine.add_request("one", {"prompt_token_ids": list(asked.prompt)}, params(asked, logprobs=None))
    outputs = []
    while llama_engine.llm_engine.has_unfinished_requests():
        outputs += llama_engine.llm_engine.step()
    assert len(outputs) == len(sent) == STEPS
    assert [beside is not None for beside in sent] == [True] + [False] * (STEPS - 1)
    assert all(output.kv_transfer_params == sent[0] for output in outputs)
    assert sent[0]["seka"]["tokens_edited"] == 20


def test_the_plugin_taken_out_and_put_back(llama_engine, tiny_llama):
    """What speed is measured against steers nothing and reports nothing."""
    prompt = mixed(tiny_llama[1].config.vocab_size)[0].prompt
    steered, plain = Asked(prompt, Highlights(((100, 120, 1.0),))), Asked(prompt)
    plugin, found = Plugin(llama_engine), []
    for one, back in ((steered, True), (steered, False), (plain, True), (steered, True)):
        plugin.put(back=back)
        llama_engine.reset_prefix_cache()
        found += answers(llama_engine, [one])
    (first, _), (out, _), (usual, _), (again, _) = ((scores, tokens) for tokens, scores, _ in found)
    assert torch.equal(out, usual)
    assert torch.equal(first, again)
    assert (first[0] - usual[0]).abs().max() > 0.01
    assert [output.kv_transfer_params is None for *_, output in found] == [False, True, True, False]


def test_speed_asks_each_way_in_each_round(tiny_llama, capsys, monkeypatch):
    folder, *_ = tiny_llama
    asked = []
    ask = Workload.ask
    monkeypatch.setattr(Workload, "ask", lambda self, llm, **how: (asked.append(how), ask(self, llm, **how))[1])
    options = f"--model {folder / 'model'} --bank {folder / 'bank'} --rounds 2 --requests 2 --length 64 --new 2"
    speed.main(options.split())
    assert [how["highlighted"] for how in asked].count(True) == 3  # the first round is to get warm
    assert len(asked) == 12
    *_, head, _, plain, again, idle, active = capsys.readouterr().out.splitlines()
    names = [row.split("|")[1].strip() for row in (head, plain, again, idle, active)]
    assert names == ["way", *speed.WAYS]


def refused(kind, message, *args, **options):
    with pytest.raises(kind, match=message), engine(*args, **options):
        pass


def test_engines_that_do_not_start(tiny_llama, tmp_path, monkeypatch):
    folder, *_ = tiny_llama
    model, bank = folder / "model", folder / "bank"
    save_tiny(tmp_path / "other", "llama", num_hidden_layers=2)
    save_tiny(tmp_path / "gemma", "gemma")
    refused(BankError, "learned for another model.*layers", model, tmp_path / "other" / "bank")
    refused(BankError, "nowhere", model, tmp_path / "nowhere")
    refused(
        UnsupportedModelError, "'gemma' cannot be steered", tmp_path / "gemma" / "model", tmp_path / "gemma" / "bank"
    )
    refused(UnsupportedModelError, "needs the end of the prompt", model, bank, KeyBias(form="mean"))
    refused(UnsupportedModelError, "edits values too", model, bank, Prism(gain_value=0.1))
    refused(BankError, "AdaSeka takes a bank of type ExpertBank", model, bank, AdaSeka())
    ExpertBank({"a": random_expert(tiny_llama[1], 1)}).save(tmp_path / "experts")
    refused(SettingError, '"two_pass": true', model, tmp_path / "experts")
    compiled = {"enforce_eager": False}
    refused(UnsupportedModelError, "eager engine", model, tmp_path / "experts", AdaSeka(two_pass=True), **compiled)
    refused(SettingError, "fade=3", model, bank, KeyVector(fade=3))
    refused(SettingError, "the gain of its method is 0", model, bank, KeyVector(gain=0.0))
    refused(SettingError, "additional_config.*gain", model, bank, additional_config={"seka": {"gain": 1}})


PARALLEL = {
    "pipeline_parallel_size": 1,
    "data_parallel_size": 1,
    "prefill_context_parallel_size": 1,
    "decode_context_parallel_size": 1,
    "use_ubatching": False,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_v2_model_runner": True}, "VLLM_USE_V2_MODEL_RUNNER=0"),
        ({"pipeline_parallel_size": 2}, "pipeline parallelism"),
        ({"data_parallel_size": 2}, "data parallelism"),
        ({"prefill_context_parallel_size": 2}, "context parallelism"),
        ({"decode_context_parallel_size": 2}, "context parallelism"),
        ({"use_ubatching": True}, "--enable-dbo"),
        ({"lora_config": object()}, "LoRA adapters"),
        ({"speculative_config": object()}, "speculative decoding"),
        ({"kv_transfer_config": object()}, "a KV connector"),
        ({"kv_events_config": object()}, "KV events"),
    ],
)
def test_ways_of_running_that_were_not_shown_to_steer(llama_engine, change, message):
    config = llama_engine.llm_engine.vllm_config
    assert {name: getattr(config.parallel_config, name) for name in PARALLEL} == PARALLEL
    ours = ("use_v2_model_runner", "model_config", "lora_config", "speculative_config", "kv_transfer_config")
    known = {name: getattr(config, name) for name in (*ours, "kv_events_config", "parallel_config")}
    check_engine(SimpleNamespace(**known))
    if change.keys() <= PARALLEL.keys():
        change = {"parallel_config": SimpleNamespace(**{**PARALLEL, **change})}
    with pytest.raises(UnsupportedModelError, match=message):
        check_engine(SimpleNamespace(**{**known, **change}))


def test_the_trial_notices_an_engine_that_does_not_steer(tiny_llama, monkeypatch):
    from seka_vllm.rotary import SteeredRotary
    from vllm.v1.core import kv_cache_utils

    folder, *_ = tiny_llama
    with monkeypatch.context() as patched:
        patched.setattr(SteeredRotary, "steered", lambda self, key: key)
        refused(SteeringError, "the answer is as without", folder / "model", folder / "bank", KeyVector())
    with monkeypatch.context() as patched:
        patched.setattr(kv_cache_utils, "_gen_prompt_embeds_extra_hash_keys", lambda *_: [])
        refused(SteeringError, "as if it were plain", folder / "model", folder / "bank", KeyVector())


def test_without_a_bank_highlights_are_refused(tiny_llama):
    from vllm.exceptions import VLLMValidationError

    folder, *_ = tiny_llama
    with engine(folder / "model", None) as llm, pytest.raises(VLLMValidationError, match="started without a bank"):
        answers(llm, [Asked((9, 10, 11), Highlights(((0, 2, 1.0),)))])


def test_another_release_of_vllm_is_refused(monkeypatch):
    import seka_vllm
    import vllm

    monkeypatch.setattr(seka_vllm, "_registered", False)
    monkeypatch.setattr(vllm, "__version__", "0.99.1")
    with pytest.raises(RuntimeError, match=r"knows nothing of 0\.99\.1"):
        seka_vllm.register()


@pytest.mark.parametrize("plugins", [None, ""])
def test_the_off_switch(plugins):
    """Without its name in VLLM_PLUGINS nothing of the plugin is loaded; without the variable, all that is installed."""
    script = (
        "import vllm.plugins, seka_vllm; vllm.plugins.load_general_plugins(); print('loaded:', seka_vllm._registered)"
    )
    others = {name: value for name, value in os.environ.items() if name != "VLLM_PLUGINS"}
    environment = others if plugins is None else {**others, "VLLM_PLUGINS": plugins}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert f"loaded: {plugins is None}" in done.stdout
