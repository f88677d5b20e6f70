"""What an engine refuses, at its start and of requests, and that steered and plain requests share no block they must not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from seka_vllm.families import check_engine
from seka_vllm.highlights import Highlights
from tiny import random_expert
from vllm_engines import Asked, answers, engine, largest_difference, mixed, reference, save_tiny

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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_v2_model_runner": True}, "VLLM_USE_V2_MODEL_RUNNER=0"),
        ({"parallel_config": SimpleNamespace(pipeline_parallel_size=2, data_parallel_size=1)}, "pipeline parallelism"),
        ({"parallel_config": SimpleNamespace(pipeline_parallel_size=1, data_parallel_size=2)}, "data parallelism"),
        ({"speculative_config": object()}, "speculative decoding"),
        ({"kv_transfer_config": object()}, "a KV connector"),
        ({"kv_events_config": object()}, "KV events"),
    ],
)
def test_ways_of_running_that_were_not_shown_to_steer(llama_engine, change, message):
    config = llama_engine.llm_engine.vllm_config
    names = ("use_v2_model_runner", "parallel_config", "speculative_config", "kv_transfer_config", "kv_events_config")
    known = {name: getattr(config, name) for name in (*names, "model_config")}
    check_engine(SimpleNamespace(**known))
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
