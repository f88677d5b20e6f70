"""LangChain's own suites for chat models."""

from __future__ import annotations

import pytest
from langchain_seka import ChatSeka
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests


class _Tiny:
    engine = None

    @pytest.fixture(autouse=True)
    def _with_engine(self, engine):
        type(self).engine = engine

    @property
    def chat_model_class(self):
        return ChatSeka

    @property
    def chat_model_params(self):
        return {"steered_model": self.engine, "model": "tiny"}

    @property
    def has_tool_calling(self):
        return False

    @property
    def has_structured_output(self):
        return False


class TestStandardUnit(_Tiny, ChatModelUnitTests):
    pass


class TestStandardIntegration(_Tiny, ChatModelIntegrationTests):
    @property
    def chat_model_params(self):
        # a few tokens: the random model has a lot to say
        return {**super().chat_model_params, "max_tokens": 5}
