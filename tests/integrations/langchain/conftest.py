"""A tiny random chat model with the demo's tokenizer and a learned bank."""

from __future__ import annotations

import gc

import pytest
import torch
from langchain_seka import ChatSeka, SekaLLM
from langchain_seka.capture import CAPTURE
from tiny import tiny_engine

from seka_rag import SteeredModel


@pytest.fixture(scope="session", autouse=True)
def _few_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def engine() -> SteeredModel:
    return tiny_engine(1024)


@pytest.fixture(scope="session")
def demo_engine() -> SteeredModel:
    return SteeredModel.from_pretrained("seka-demo")


@pytest.fixture
def chat(engine) -> ChatSeka:
    return ChatSeka(steered_model=engine, max_tokens=1)


@pytest.fixture
def llm(engine) -> SekaLLM:
    return SekaLLM(steered_model=engine, max_tokens=1)


@pytest.fixture
def benchmark():
    """In place of that of pytest-benchmark, for LangChain's suites: what it would measure is run once."""
    return lambda function: function()


@pytest.fixture
def snapshot():
    """In place of syrupy's: the only test with it is of models that LangChain can serialise, which these are not."""


@pytest.fixture
def vcr():
    """In place of pytest-recording's: the only test with it is of recorded answers of a server, which there are none of."""


@pytest.fixture(autouse=True)
def _nothing_left():
    """Whatever a test does, the handler is empty afterwards."""
    yield
    if CAPTURE.held:  # generators that nobody closed
        gc.collect()
    assert CAPTURE.held == 0
