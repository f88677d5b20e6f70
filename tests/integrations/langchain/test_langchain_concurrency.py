"""50 chains at once over one model, in each way that LangChain runs several: every one gets its own highlights, exactly.

The table in docs/how-to/langchain.md is what is counted here.
"""

from __future__ import annotations

import asyncio
import gc
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ModelResponse
from langchain.tools import ToolRuntime
from langchain_chains import Facts, documents, join, questions, rag, two_nodes
from langchain_classic.chains import create_retrieval_chain
from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_classic.retrievers import MultiQueryRetriever
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.output_parsers import BaseOutputParser
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.tools import tool
from langchain_seka import ChatSeka
from langchain_seka.capture import CAPTURE
from langchain_seka.middleware import SekaMiddleware
from patience import until_true

N = 50
ASKED = questions(N)
AT_ONCE = {"max_concurrency": N}
PAGE = Path(__file__).parents[3] / "docs/how-to/langchain.md"
SHAPES: dict[str, Callable[[ChatSeka], Any]] = {}


def shape(name: str) -> Callable:
    """Enters a coroutine function that returns 50 answers, in the order of ``ASKED``."""
    return lambda run: SHAPES.setdefault(name, run)


def whole(chunks: list) -> Any:
    message = chunks[0]
    for chunk in chunks[1:]:
        message = message + chunk
    return message


def in_threads(call: Callable[[str], Any]) -> list:
    with ThreadPoolExecutor(N) as pool:
        return list(pool.map(call, ASKED))


async def at_once(call: Callable[[str], Any]) -> list:
    return await asyncio.gather(*map(call, ASKED))


@shape("`batch`")
async def batch(chat):
    return rag(chat).batch(ASKED, AT_ONCE)


@shape("`invoke` in 50 threads")
async def threads(chat):
    return in_threads(rag(chat).invoke)


@shape("`stream` in 50 threads")
async def threads_that_stream(chat):
    return in_threads(lambda q: whole(list(rag(chat).stream(q))))


@shape("streams of one thread, read in turn")
async def interleaved(chat):
    rounds = list(zip_longest(*(rag(chat).stream(q) for q in ASKED)))
    return [whole([c for c in chunks if c is not None]) for chunks in zip(*rounds, strict=True)]


@shape("`ainvoke` in 50 tasks")
async def gathered(chat):
    return await at_once(rag(chat).ainvoke)


@shape("`abatch`")
async def abatch(chat):
    return await rag(chat).abatch(ASKED)


@shape("`abatch_as_completed`")
async def as_completed(chat):
    got = dict([pair async for pair in rag(chat).abatch_as_completed(ASKED)])
    return [got[i] for i in range(N)]


async def _astream(chat, question):
    return whole([chunk async for chunk in rag(chat).astream(question)])


@shape("`astream` in 50 tasks")
async def astream(chat):
    return await at_once(lambda q: _astream(chat, q))


@shape("`astream_events` in 50 tasks")
async def astream_events(chat):
    async def one(question):
        events = [e async for e in rag(chat).astream_events(question, version="v2")]
        return next(e["data"]["output"] for e in events if e["event"] == "on_chat_model_end")

    return await at_once(one)


@shape("`astream_log` in 50 tasks")
async def astream_log(chat):
    async def one(question):
        state = whole([patch async for patch in rag(chat).astream_log(question)])
        return state.state["final_output"]

    return await at_once(one)


@shape("`RunnableParallel` of 50")
async def parallel(chat):
    steps = {q: RunnableLambda(lambda _, q=q: q) | rag(chat) for q in ASKED}
    got = RunnableParallel(steps).invoke("go", AT_ONCE)
    return [got[q] for q in ASKED]


@shape("`map`")
async def mapped(chat):
    return rag(chat).map().invoke(ASKED, AT_ONCE)


@shape("`map`, async")
async def amapped(chat):
    return await rag(chat).map().ainvoke(ASKED)


@shape("`batch` inside a step")
async def nested(chat):
    return RunnableLambda(lambda asked: rag(chat).batch(asked, AT_ONCE)).invoke(ASKED)


@shape("beside 50 streams that are abandoned")
async def beside_abandoned(chat):
    async def abandoned(question):
        async for _ in rag(chat).astream(question):
            break

    tasks = [asyncio.create_task(abandoned(q)) for q in reversed(ASKED)]
    got = await at_once(lambda q: _astream(chat, q))
    await asyncio.gather(*tasks)
    return got


@shape("beside 50 tasks that are cancelled")
async def beside_cancelled(chat):
    long = [asyncio.create_task(rag(chat.bind(max_tokens=200)).ainvoke(q)) for q in reversed(ASKED)]
    whole_ones = asyncio.create_task(at_once(rag(chat).ainvoke))
    await asyncio.sleep(0.05)
    assert sum(task.cancel() for task in long) > N // 2
    got = await whole_ones
    await asyncio.gather(*long, return_exceptions=True)
    return got


@shape("`create_retrieval_chain`, `abatch`")
async def ready_made(chat):
    seen = {}

    def keep(message, config):
        seen[config["metadata"]["question"]] = message
        return message.content

    prompt = ChatPromptTemplate.from_messages([("system", "Be short."), ("human", "Context:\n{context}\n\n{input}")])
    stuff = create_stuff_documents_chain(chat | RunnableLambda(keep), prompt, output_parser=RunnableLambda(str))
    chain = create_retrieval_chain(RunnableLambda(lambda x: x["input"]) | Facts(), stuff)
    await chain.abatch([{"input": q} for q in ASKED], [{"metadata": {"question": q}} for q in ASKED])
    return [seen[q] for q in ASKED]


@shape("`MultiQueryRetriever`, `batch`")
async def multi_query(chat):
    class Lines(BaseOutputParser):
        def parse(self, text):
            return [text] * 2

    # the model's answer is thrown away: the tiny one could not write a question
    write = RunnableParallel(said=PromptTemplate.from_template("Other words for: {question}") | chat, q=lambda x: x)
    retriever = MultiQueryRetriever(
        retriever=Facts(), llm_chain=write | RunnableLambda(lambda x: x["q"]["question"]) | Lines()
    )
    return rag(chat, retriever=retriever).batch(ASKED, AT_ONCE)


@shape("a graph of LangGraph, `abatch`")
async def graph(chat):
    states = await two_nodes(chat).abatch([{"question": q} for q in ASKED])
    return [state["answer"] for state in states]


@shape("a graph of LangGraph, `batch`")
async def graph_in_threads(chat):
    states = two_nodes(chat).batch([{"question": q} for q in ASKED], AT_ONCE)
    return [state["answer"] for state in states]


@tool(response_format="content_and_artifact")
def look_up(runtime: ToolRuntime) -> tuple[str, list]:
    """Look up what was asked."""
    found = documents(runtime.state["messages"][0].content)
    return join(found), found


class Scripted(AgentMiddleware):
    """The tiny model cannot choose a tool: the first turn is given, the second is the model's."""

    async def awrap_model_call(self, request, handler):
        if any(isinstance(m, ToolMessage) for m in request.messages):
            return await handler(request)
        return ModelResponse(result=[AIMessage("", tool_calls=[{"name": "look_up", "args": {}, "id": "1"}])])


@shape("an agent of `create_agent`, `abatch`")
async def agent(chat):
    made = create_agent(chat, [look_up], middleware=[Scripted(), SekaMiddleware(["look_up"], highlighter="all")])
    states = await made.abatch([{"messages": [HumanMessage(q)]} for q in ASKED])
    return [state["messages"][-1] for state in states]


#: Message and character where the passages begin, where it is not the human's message of the usual template.
BEGINS = {agent: (2, 0)}


def expected(question: str, run: Callable) -> set[tuple]:
    message, at = BEGINS.get(run, (1, len("Context:\n")))
    spans = set()
    for document in documents(question):
        end = at + len(document.page_content)
        spans.add((message, at, end, 1.0, document.metadata["source"]))
        at = end + len("\n\n")
    return spans


@pytest.fixture
def given(engine, monkeypatch):
    """Every prompt that the model was really given, as its text and the text of its marked tokens."""
    seen: list[tuple[str, str]] = []
    run, decode = engine._run, engine.tokenizer.decode

    def recorded(call):
        for p in call.prompts:
            seen.append((decode(p.ids), decode([i for i, w in zip(p.ids, p.weights, strict=True) if w > 0])))
        return run(call)

    monkeypatch.setattr(engine, "_run", recorded)
    return seen


def squeezed(text: str) -> str:
    return re.sub(r"\s", "", text)


def table() -> dict[str, tuple[int, ...]]:
    """What the page says: highlights, foreign and missing ones of each shape."""
    rows = re.findall(rf"^\| (.*) \| {N} \| (\d+) \| (\d+) \| (\d+) \|$", PAGE.read_text(), re.M)
    return {name: tuple(map(int, counts)) for name, *counts in rows}


@pytest.mark.filterwarnings("ignore:astream_log is deprecated")
@pytest.mark.parametrize("name", SHAPES)
async def test_own_highlights_and_no_others(chat, given, name):
    chat.highlighter = "all"
    run = SHAPES[name]
    answers = await run(chat)
    assert len(answers) == N
    found = foreign = missing = 0
    for question, answer in zip(ASKED, answers, strict=True):
        report = answer.response_metadata["seka"]
        own = {(h["message"], h["start"], h["end"], h["weight"], h["source"]) for h in report["highlights"]}
        found += len(report["highlights"])
        foreign += len(own - expected(question, run))
        missing += len(expected(question, run) - own)
        assert report["tokens_edited"] == report["tokens_marked"] > 0
    assert (found, foreign, missing) == table()[name] == (2 * N, 0, 0)

    with_passages = 0
    for text, marked in given:  # abandoned, cancelled and auxiliary calls as well
        (question,) = [q for q in ASKED if squeezed(q) in squeezed(text)]
        passages = squeezed(join(documents(question)))
        assert squeezed(marked) == (passages if passages in squeezed(text) else "")
        with_passages += bool(marked)
    assert with_passages >= N

    if CAPTURE.held:  # generators that nobody closed
        gc.collect()
    await until_true(lambda: CAPTURE.held == 0)


def test_the_table_has_these_shapes():
    assert list(table()) == list(SHAPES)
