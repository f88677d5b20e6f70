"""Fifty requests at once: every one is highlighted in its own document, and in no other."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import TextNode
from llama_index.llms.seka import SekaLLM, collect_reports

from seka_rag.demo import words

N = 50
NAMES = words.NAMES[:N]
TEMPLATE = PromptTemplate("{context_str}\n{query_str}")


def context(name: str) -> str:
    return f"{name} moved to Lyon last year. The old market opens at nine."


def question(name: str) -> str:
    return f"Where did {name} move to?"


def check(marked: list[str], seen: list) -> None:
    """Each prompt has its own name highlighted, and every name was highlighted once."""
    assert sorted(marked) == sorted(f"{name} moved to Lyon last year ." for name in NAMES)
    assert len(seen) == N


@pytest.fixture
def one_word(engine) -> SekaLLM:
    return SekaLLM(steered_model=engine, max_tokens=1)


@pytest.mark.parametrize("chat", [True, False])
async def test_tasks(engine, seen, marked, chat):
    llm = SekaLLM(steered_model=engine, max_tokens=1, is_chat_model=chat)

    async def ask(i: int, name: str) -> None:
        if i % 2:
            await llm.apredict(TEMPLATE, context_str=context(name), query_str=question(name))
        else:
            async for _ in await llm.astream(TEMPLATE, context_str=context(name), query_str=question(name)):
                pass

    await asyncio.gather(*(ask(i, name) for i, name in enumerate(NAMES)))
    check([m.replace("last year.", "last year .") for m in marked()], seen)


@pytest.mark.parametrize("chat", [True, False])
def test_threads(engine, seen, marked, chat):
    llm = SekaLLM(steered_model=engine, max_tokens=1, is_chat_model=chat)

    def ask(numbered: tuple[int, str]) -> None:
        i, name = numbered
        if i % 2:
            llm.predict(TEMPLATE, context_str=context(name), query_str=question(name))
        else:
            list(llm.stream(TEMPLATE, context_str=context(name), query_str=question(name)))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, enumerate(NAMES)))
    check([m.replace("last year.", "last year .") for m in marked()], seen)


async def test_query_engines_and_their_reports(one_word, seen, marked):
    async def ask(name: str) -> list[dict]:
        index = VectorStoreIndex([TextNode(text=context(name))])
        with collect_reports() as reports:
            await index.as_query_engine(llm=one_word).aquery(question(name))
        return reports

    found = await asyncio.gather(*(ask(name) for name in NAMES))
    check([m.replace("last year.", "last year .") for m in marked()], seen)
    for name, reports in zip(NAMES, found, strict=True):
        (report,) = reports
        (span,) = report["highlights"]
        assert span["end"] - span["start"] == len(f"{name} moved to Lyon last year.")


async def test_equal_prompts_with_and_without_provenance_at_once(engine, seen):
    """A prompt that a user wrote, equal to one that a template made, is not highlighted by it."""
    llm = SekaLLM(steered_model=engine, max_tokens=1, is_chat_model=False)
    name = NAMES[0]
    written = f"{context(name)}\n{question(name)}"

    async def ask(i: int) -> None:
        if i % 2:
            await llm.apredict(TEMPLATE, context_str=context(name), query_str=question(name))
        else:
            await llm.acomplete(written, formatted=True)

    await asyncio.gather(*(ask(i) for i in range(N)))
    assert sorted(max(p.weights) for p in seen) == [0.0] * (N // 2) + [1.0] * (N // 2)
