"""The conformance suite on the built-in model."""

from __future__ import annotations

import pytest
from llama_index.llms.seka import SekaLLM
from llm_conformance import LLMConformance

pytestmark = pytest.mark.slow


class TestSekaLLM(LLMConformance):
    def make(self, **settings):
        return SekaLLM(**{"model": "seka-demo", "max_tokens": 12, **settings})

    def patch_generation(self, llm, monkeypatch, around):
        monkeypatch.setattr(llm.engine.hf_model, "generate", around(llm.engine.hf_model.generate))
