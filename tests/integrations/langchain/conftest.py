"""A tiny random chat model with the demo's tokenizer and a learned bank."""

from __future__ import annotations

import gc

import pytest
import torch
from langchain_seka import ChatSeka, SekaLLM
from langchain_seka.capture import CAPTURE
from tiny import demo_tokenizer, tiny_model

from seka_rag import SteeredModel, learn_bank
from seka_rag.demo.trials import demo_triples


@pytest.fixture(scope="session", autouse=True)
def _few_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def engine() -> SteeredModel:
    tokenizer = demo_tokenizer()
    model = tiny_model(
        "qwen3",
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        max_position_embeddings=1024,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    plain = SteeredModel(model, tokenizer)
    return SteeredModel(model, tokenizer, bank=learn_bank(plain, demo_triples(20), min_gap=0.0), name="tiny")


@pytest.fixture
def chat(engine) -> ChatSeka:
    return ChatSeka(steered_model=engine, max_tokens=1)


@pytest.fixture
def llm(engine) -> SekaLLM:
    return SekaLLM(steered_model=engine, max_tokens=1)


@pytest.fixture(autouse=True)
def _nothing_left():
    """Whatever a test does, the handler is empty afterwards."""
    yield
    if CAPTURE.held:  # generators that nobody closed
        gc.collect()
    assert CAPTURE.held == 0
