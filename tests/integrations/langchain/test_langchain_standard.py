"""LangChain's own suites for chat models, with everything declared that this model has.

Some tests ask for arguments that only a competent model takes from the question. They run when ``SEKA_TEST_MODEL`` names
a real instruct model (and ``SEKA_TEST_BANK`` perhaps its bank).
"""

from __future__ import annotations

import os

import pytest
from declared import OfChatSeka
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

pytestmark = pytest.mark.slow
REAL = os.environ.get("SEKA_TEST_MODEL")
#: Test -> what it wants of the model beside well-formed answers.
COMPETENCE = {
    "test_tool_calling": "the argument 3, out of the question",
    "test_tool_calling_async": "the argument 3, out of the question",
    "test_agent_loop": "to call a tool on its own accord, and for the right place",
    "test_unicode_tool_call_integration": "Chinese and Japanese names, out of the question",
}


class _Declared(OfChatSeka):
    engine = None

    @pytest.fixture(autouse=True)
    def _with_engine(self, demo_engine):
        type(self).engine = demo_engine

    @pytest.fixture(autouse=True)
    def _competent(self, request):
        wanted = COMPETENCE.get(request.node.originalname)
        if wanted and not REAL:
            pytest.skip(f"needs a competent model: {wanted}. Set SEKA_TEST_MODEL to the name of an instruct model")

    @property
    def chat_model_params(self):
        if REAL:
            return {"model": REAL, "bank": os.environ.get("SEKA_TEST_BANK")}
        # The demo's model was never taught to write JSON and would go on with a string for ever: lean towards its end,
        # but not at its beginning.
        colon, quote = self.engine.tokenizer.convert_tokens_to_ids([":", '"'])
        lean = [[[quote], 14.0], [[colon, quote, quote], -28.0]]
        return {"steered_model": self.engine, "model": "seka-demo", "generate_kwargs": {"sequence_bias": lean}}


class TestStandardUnit(_Declared, ChatModelUnitTests):
    pass


class TestStandardIntegration(_Declared, ChatModelIntegrationTests):
    @property
    def chat_model_params(self):
        return {**super().chat_model_params, "max_tokens": 100}


class TestStandardIntegrationJsonSchema(TestStandardIntegration):
    """Structured output by the other method; the other tests do not depend on it."""

    @property
    def structured_output_kwargs(self):
        return {"method": "json_schema"}


for _name in [n for n in dir(ChatModelIntegrationTests) if n.startswith("test_") and "structured_output" not in n]:
    setattr(TestStandardIntegrationJsonSchema, _name, None)
