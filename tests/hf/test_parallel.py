"""Tensor parallelism: each process holds some of the heads, and edits these with their own part of the bank."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import parallel
import pytest
import torch
from tiny import random_bank, random_expert, tiny_model

from seka_rag.errors import UnsupportedModelError
from seka_rag.hf.find import find_key_sites

TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path):
    for family in parallel.FAMILIES:
        heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "hidden_size": 128}
        model, folder = tiny_model(family, **heads), tmp_path / family
        model.save_pretrained(folder / "model")
        random_bank(model).save(folder / "bank")
        random_expert(model, 1).save(folder / "a")
        random_expert(model, 2, without=[(1, 0), (2, 1)]).save(folder / "b")
    started = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*started, str(TESTS / "hf" / "parallel.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for family in parallel.FAMILIES:
        folder = tmp_path / family
        wanted = parallel.results(*parallel.load(folder))
        for process in range(2):
            found = torch.load(folder / f"results-{process}.pt")
            for name, value in wanted.items():
                assert torch.allclose(found[name], value, atol=2e-4), (family, name, process)
            assert "tensor parallelism" in (folder / f"refused-{process}.txt").read_text()
        for name in ("seka", "adaseka", "adaseka, two passes", "key bias, constant", "key bias, request"):
            assert not torch.allclose(wanted[name], wanted["plain"], atol=1e-2)


def test_heads_that_cannot_be_told_are_refused(qwen3):
    sites = replace(find_key_sites(qwen3), shard=(1, 2))
    assert list(sites.present(2)) == [0, 1]
    assert list(sites.present(1)) == [1]
    with pytest.raises(UnsupportedModelError, match="1 of the 2 key-value heads in process 2 of 3"):
        replace(sites, shard=(1, 3)).present(1)
    with pytest.raises(UnsupportedModelError, match="1 of the 2 key-value heads in process 1 of 1"):
        find_key_sites(qwen3).present(1)
