"""What is shown while a model is read: one bar of ours for a file, none of transformers, and nothing changed afterwards."""

from __future__ import annotations

from threading import Thread

import pytest
import transformers.modeling_gguf_pytorch_utils as of_gguf
from gguf_files import write_gguf
from transformers.utils import logging as of_transformers

from seka_rag.errors import ModelFileError
from seka_rag.hf import gguf, packaged
from seka_rag.hf.bars import own_bar
from seka_rag.hf.loading import load_model
from seka_rag.hf.packaged import PackagedModel


def state():
    return of_gguf.tqdm, of_transformers._tqdm_hook, of_transformers.is_progress_bar_enabled()


@pytest.fixture(autouse=True)
def bars_are_on():
    """As in a user's process; commands in other tests turn them off."""
    before = of_transformers.is_progress_bar_enabled()
    of_transformers.enable_progress_bar()
    found = state()
    yield
    assert state() == found
    if not before:
        of_transformers.disable_progress_bar()


def test_a_file_shows_one_bar_of_ours(tmp_path, capfd):
    write_gguf(tmp_path / "mine.gguf")
    load_model(str(tmp_path / "mine.gguf"))
    out, err = capfd.readouterr()
    assert out == ""
    assert {line.split(":")[0] for line in err.split("\r") if line.strip()} == {"reading mine.gguf"}
    assert err.endswith("\r")  # it is gone


def test_a_packaged_model_shows_none_of_transformers(tmp_path, monkeypatch, capfd):
    write_gguf(tmp_path / "m.gguf")
    load_model(str(tmp_path / "m.gguf")).hf_model.save_pretrained(tmp_path)
    load_model(str(tmp_path / "m.gguf")).tokenizer.save_pretrained(tmp_path)
    capfd.readouterr()
    load_model(str(tmp_path))
    assert "Loading weights" in capfd.readouterr().err  # of a folder: as transformers is set
    monkeypatch.setitem(packaged.PACKAGED, "tiny", PackagedModel(tmp_path, tmp_path / "no-bank"))
    load_model("tiny")
    assert capfd.readouterr() == ("", "")


def test_an_error_leaves_nothing_changed(tmp_path, monkeypatch):
    def fail(*args, **options):
        assert of_gguf.tqdm is not before
        raise RuntimeError("no")

    before = of_gguf.tqdm
    write_gguf(tmp_path / "m.gguf")
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", fail)
    with pytest.raises(ModelFileError, match="RuntimeError: no"):
        gguf.load_gguf(tmp_path / "m.gguf")
    assert of_gguf.tqdm is before


def test_another_thread_and_a_hook_of_the_user_see_their_bars(capfd):
    calls = []
    previous = of_transformers.set_tqdm_hook(lambda factory, args, options: calls.append(args) or iter(args[0]))

    def elsewhere():
        assert list(of_transformers.tqdm([1])) == [1]
        assert list(of_gguf.tqdm([2], desc="Converting")) == [2]

    def within(text):
        with own_bar(text):
            assert list(of_transformers.tqdm([3], desc="Loading weights")) == [3]

    try:
        with own_bar("ours"):
            for work in (elsewhere, lambda: within("other"), lambda: within("")):
                thread = Thread(target=work)
                thread.start()
                thread.join()
            assert list(of_gguf.tqdm([4], desc="Converting")) == [4]
        assert list(of_transformers.tqdm([5])) == [5]
    finally:
        of_transformers.set_tqdm_hook(previous)
    assert calls == [([1],), ([5],)]
    err = capfd.readouterr().err
    assert ["Converting" in err, "ours" in err, "Loading" in err, "other" in err] == [True, True, False, False]
