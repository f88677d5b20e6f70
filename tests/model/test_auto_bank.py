"""A bank that nobody named: shipped, cached or learned, through every door, with any cache, and once."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import demo_tokenizer, tiny_model

from seka_rag import ProjectionBank, Prompt, SteeredModel
from seka_rag.bank import folders
from seka_rag.bank.header import FORMAT_VERSION
from seka_rag.errors import SteeringError, UnsupportedModelError
from seka_rag.hf.packaged import PACKAGED
from seka_rag.model import auto_bank

PROMPT = Prompt("Context: Ada lives in Lyon .\nQuestion: Where does Ada live ?").highlight("Ada lives in Lyon")
LOAD = "import sys; from seka_rag import SteeredModel; print(SteeredModel.from_pretrained(sys.argv[1]).bank.digest)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model("qwen3").save_pretrained(path)
    demo_tokenizer().save_pretrained(path)
    return str(path)


@pytest.fixture
def cache(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("SEKA_RAG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def learned(monkeypatch):
    """Banks that were learned, one after another, of few of the triples."""
    banks, learn = [], auto_bank.learn_bank

    def of_few(model, triples, **settings):
        banks.append(learn(model, triples[:20], **settings))
        return banks[-1]

    monkeypatch.setattr(auto_bank, "learn_bank", of_few)
    return banks


def banks_in(cache: Path) -> list[Path]:
    return sorted(path.parent for path in cache.rglob("bank.json"))


def test_it_is_learned_once_and_steers(folder, cache, learned, caplog):
    first, second = SteeredModel.from_pretrained(folder), SteeredModel.from_pretrained(folder, bank="auto")
    assert first.bank.digest == second.bank.digest
    assert len(learned) == 1
    assert caplog.text.count("learning one from 200 templates") == 1
    assert banks_in(cache)[0].name in caplog.text  # where it is kept
    report = second.generate(PROMPT, max_new_tokens=1).report
    assert report.tokens_edited > 0
    assert report.bank == learned[0].digest


def test_the_shipped_bank_comes_before_any_other(cache, learned):
    model = SteeredModel.from_pretrained("seka-demo")
    assert model.bank.digest == ProjectionBank.load(PACKAGED["seka-demo"].bank).digest
    assert learned == []


def test_without_a_bank_it_says_so_when_it_is_made(folder, cache, learned, caplog):
    model = SteeredModel.from_pretrained(folder, bank=None)
    assert caplog.text.count("runs unsteered") == 1
    assert model.generate("Where does Ada live ?", max_new_tokens=1).report.method == "none"
    with pytest.raises(SteeringError, match="no bank"):
        model.generate(PROMPT)
    assert (learned, caplog.text.count("unsteered")) == ([], 1)


def test_chains_take_it_too(folder, cache, learned):
    from langchain_seka import ChatSeka
    from llama_index.llms.seka import SekaLLM

    chat, llm = ChatSeka(model=folder, max_tokens=1), SekaLLM(model=folder, max_tokens=1)
    assert chat.engine.bank.digest == llm.engine.bank.digest
    assert len(learned) == 1
    assert chat.engine is llm.engine
    assert ChatSeka(model=folder, bank=None).engine.bank is None
    assert SekaLLM(model=folder, bank=None).engine.bank is None


@pytest.mark.parametrize("damage", ["cut", "no header", "another model"])
def test_a_damaged_one_is_set_aside_and_learned_again(folder, cache, learned, caplog, damage, make_bank):
    SteeredModel.from_pretrained(folder)
    place = banks_in(cache)[0]
    if damage == "cut":
        os.truncate(place / "bank.safetensors", 100)
    elif damage == "no header":
        (place / "bank.json").unlink()
    else:
        make_bank(tiny_model("llama")).save(place)
    for _ in range(2):  # and again, when there is one aside already
        again = SteeredModel.from_pretrained(folder)
    assert again.bank.digest == learned[0].digest
    assert len(learned) == 2
    assert "cannot be used" in caplog.text
    assert "set aside" in caplog.text
    assert (place.parent / f"{place.name}.damaged").is_dir()


def test_a_cache_that_cannot_be_written_costs_time_but_no_answer(folder, tmp_path, learned, monkeypatch, caplog):
    (tmp_path / "cache").write_text("a file, where a folder is to be")
    monkeypatch.setenv("SEKA_RAG_CACHE", str(tmp_path / "cache"))
    model = SteeredModel.from_pretrained(folder)
    assert model.generate(PROMPT, max_new_tokens=1).report.tokens_edited > 0
    assert len(learned) == 1
    assert "cannot be kept" in caplog.text
    assert str(tmp_path / "cache") in caplog.text


def test_a_full_disk_loses_no_work_and_leaves_no_half_bank(folder, cache, learned, monkeypatch, caplog):
    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(folders, "_write", full)
        model = SteeredModel.from_pretrained(folder)
    assert model.bank.digest == learned[0].digest
    assert len(learned) == 1
    assert "No space left" in caplog.text
    assert [p.name for p in cache.rglob("*") if not p.name.endswith(".lock")] == [f"banks-{FORMAT_VERSION}"]


@pytest.mark.slow
def test_processes_learn_it_once(folder, cache):
    code = "import logging; logging.basicConfig(level='INFO', format='%(message)s'); " + LOAD
    running = [
        subprocess.Popen([sys.executable, "-c", code, folder], stdout=-1, stderr=-1, text=True) for _ in range(2)
    ]
    done = [process.communicate(timeout=200) for process in running]
    assert len({out for out, _ in done}) == 1
    assert done[0][0].strip()
    assert "".join(err for _, err in done).count("learning one from") == 1


@pytest.mark.slow
def test_a_killed_process_stops_nobody(folder, cache, learned):
    kill = "import os, signal; from seka_rag.bank import ProjectionBank; "
    kill += "ProjectionBank.save = lambda *a: os.kill(os.getpid(), signal.SIGKILL); "
    killed = subprocess.run([sys.executable, "-c", kill + LOAD, folder], check=False, timeout=200, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert banks_in(cache) == []
    assert SteeredModel.from_pretrained(folder).bank.digest == learned[0].digest


def test_a_family_that_cannot_be_steered_is_refused_when_it_is_made(tmp_path, cache):
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=1500, hidden_size=16, num_hidden_layers=1, state_size=4)
    MambaForCausalLM(config).save_pretrained(tmp_path / "mamba")
    demo_tokenizer().save_pretrained(tmp_path / "mamba")
    with pytest.raises(UnsupportedModelError, match=r"no bank can be learned for .*mamba: .*bank=None"):
        SteeredModel.from_pretrained(str(tmp_path / "mamba"))
    assert SteeredModel.from_pretrained(str(tmp_path / "mamba"), bank=None).generate("Ada", max_new_tokens=1)
