"""A tiny random chat model with the demo's tokenizer and a learned bank, and documents to ask about."""

from __future__ import annotations

import pytest
import torch
from llama_index.core import MockEmbedding, Settings, VectorStoreIndex
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.llms.seka import SekaLLM, flow
from tiny import demo_tokenizer, tiny_engine

from seka_rag import SteeredModel

LYON = "Astrid moved to Lyon last year. The old market opens at nine."
OSLO = "Boris works as a baker. He has a cat."


@pytest.fixture(scope="session", autouse=True)
def _quiet_and_local():
    """One thread; and a local tokenizer, as LlamaIndex would fetch one from the network to count tokens."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    Settings.tokenizer = demo_tokenizer().tokenize
    Settings.embed_model = MockEmbedding(embed_dim=4)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _no_earlier_request():
    """Every test begins without a retrieval before it."""
    flow._flow.set(None)


@pytest.fixture(scope="session")
def engine() -> SteeredModel:
    return tiny_engine(2048)


@pytest.fixture
def llm(engine) -> SekaLLM:
    return SekaLLM(steered_model=engine, max_tokens=3)


@pytest.fixture(params=[True, False], ids=["chat", "completion"])
def either(engine, request) -> SekaLLM:
    """As a chat model and as a completion model."""
    return SekaLLM(steered_model=engine, max_tokens=2, is_chat_model=request.param)


@pytest.fixture
def seen(engine, monkeypatch) -> list:
    """What the model was given: one TokenizedPrompt for each generation, from all threads."""
    prompts = []
    run = engine._run

    def recorded(call):
        prompts.extend(call.prompts)
        return run(call)

    monkeypatch.setattr(engine, "_run", recorded)
    return prompts


@pytest.fixture
def marked(engine, seen):
    """The highlighted words of every prompt the model was given, as text."""

    def read() -> list[str]:
        return [engine.tokenizer.decode([i for i, w in zip(p.ids, p.weights, strict=True) if w > 0]) for p in seen]

    return read


@pytest.fixture
def nodes() -> list[TextNode]:
    return [
        TextNode(text=LYON, id_="a", metadata={"file_path": "astrid.txt", "moved": "Astrid moved to Oslo"}),
        TextNode(text=OSLO, id_="b", metadata={"file_path": "boris.txt"}),
    ]


@pytest.fixture
def scored(nodes) -> list[NodeWithScore]:
    return [NodeWithScore(node=node, score=1.0) for node in nodes]


@pytest.fixture
def index(nodes) -> VectorStoreIndex:
    return VectorStoreIndex(nodes)
