"""The completion model: the same highlights over plain prompts."""

from __future__ import annotations

import asyncio

import pytest
from langchain_chains import TEMPLATE, ask, documents, own_sources, questions, rag
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_seka import SekaCallbackHandler, SekaLLM

from seka_rag import Prompt, Seka

PLAIN = PromptTemplate.from_template("Context: {context}\n\nQuestion: {question}\nAnswer:")
N = 16


class Reports(BaseCallbackHandler):
    """What each run reported, and the prompt that it had."""

    def __init__(self):
        self.prompts, self.infos = {}, {}

    def on_llm_start(self, serialized, prompts, *, run_id, **kwargs):
        self.prompts[run_id] = prompts[0]

    def on_llm_end(self, response, *, run_id, **kwargs):
        self.infos[run_id] = response.generations[0][0].generation_info

    def check(self, n):
        assert len(self.infos) == n
        for run_id, info in self.infos.items():
            prompt, report = self.prompts[run_id], info["seka"]
            asked = next(q for q in questions(N) if q in prompt)
            assert {h["source"] for h in report["highlights"]} == own_sources(asked)
            marked = {prompt[h["start"] : h["end"]] for h in report["highlights"]}
            assert marked == {d.page_content for d in documents(asked)}
            assert report["tokens_edited"] == report["tokens_marked"] > 0


@pytest.fixture
def reports():
    return Reports()


@pytest.fixture
def chain(llm, reports):
    llm.highlighter = "all"
    return rag(llm, PLAIN).with_config(callbacks=[reports])


class TestShapes:
    def test_invoke(self, chain, reports):
        assert isinstance(chain.invoke(questions(1)[0]), str)
        reports.check(1)

    def test_batch(self, chain, reports):
        """One call of the model for all, in which each prompt belongs to another chain."""
        chain.batch(questions(N))
        reports.check(N)

    async def test_abatch(self, chain, reports):
        await chain.abatch(questions(N))
        reports.check(N)

    async def test_gather(self, chain, reports):
        await asyncio.gather(*(chain.ainvoke(q) for q in questions(N)))
        reports.check(N)

    def test_map(self, chain, reports):
        chain.map().invoke(questions(N))
        reports.check(N)

    def test_stream(self, chain, reports):
        for q in questions(4):
            list(chain.stream(q))
        reports.check(4)

    async def test_astream(self, chain, reports):
        async def one(q):
            return [piece async for piece in chain.astream(q)]

        await asyncio.gather(*(one(q) for q in questions(N)))
        reports.check(N)

    def test_a_chat_prompt(self, llm):
        llm.highlighter = "all"
        reports = Reports()
        rag(llm, TEMPLATE).with_config(callbacks=[reports]).invoke(questions(1)[0])
        reports.check(1)

    def test_several_prompts_at_once(self, llm):
        result = llm.generate(["One", "Two", "Three"])
        assert len(result.generations) == len(result.run) == 3


def test_text_and_stream_are_those_of_the_core(llm, engine):
    llm.max_tokens = 8
    core = engine.generate("Hello Astrid", max_new_tokens=8)
    assert llm.invoke("Hello Astrid") == core.text
    assert "".join(llm.stream("Hello Astrid")) == core.text
    assert len(list(llm.stream("Hello Astrid"))) > 3


def test_steering_is_that_of_the_core(llm, engine):
    llm.highlighter, llm.max_tokens, llm.steering = "all", 8, Seka(gain=20.0)
    seen = []
    text = rag(RunnableLambda(lambda p: (seen.append(p.to_string()), p)[1]) | llm, PLAIN).invoke(ask("Astrid"))
    prompt = Prompt(seen[0])
    for d in documents(ask("Astrid")):
        prompt = prompt.highlight(d.page_content)
    assert text == engine.generate(prompt, steering=Seka(gain=20.0), max_new_tokens=8).text
    assert text != engine.generate(prompt, steering=None, max_new_tokens=8).text


def test_cache_keeps_steered_and_plain_apart(engine):
    """LangChain's key for completion models holds no option of a call by itself."""
    reports = Reports()
    model = SekaLLM(steered_model=engine, max_tokens=1, cache=InMemoryCache(), callbacks=[reports])
    seen = []
    chain = rag(RunnableLambda(lambda p: (seen.append(p.to_string()), p)[1]) | model, PLAIN)
    chain.invoke(ask("Astrid"))
    assert len(reports.infos) == 1
    chain.invoke(ask("Astrid"))
    assert len(reports.infos) == 1  # from the cache
    model.invoke(seen[0])
    assert len(reports.infos) == 2
    model.invoke(seen[0], max_tokens=2)
    assert len(reports.infos) == 3
    model.invoke(seen[0], max_tokens=2)
    assert len(reports.infos) == 3


async def test_a_handler_gets_the_report_of_a_cached_answer(engine):
    handler = SekaCallbackHandler(highlighter="all")
    chain = rag(SekaLLM(steered_model=engine, max_tokens=1, cache=InMemoryCache()), PLAIN)
    for _ in range(2):
        chain.invoke(ask("Astrid"), {"callbacks": [handler]})
    await chain.ainvoke(ask("Astrid"), {"callbacks": [handler]})
    first, *cached = handler.reports
    assert cached == [first] * 2


def test_metadata(llm):
    info = llm.generate(["Hello"]).generations[0][0].generation_info
    assert (info["model_name"], info["finish_reason"]) == ("tiny", "length")
    assert info["usage"]["output_tokens"] == 1
    assert info["seka"]["highlights"] == []


async def test_failures_are_raised(llm):
    with pytest.raises(ValueError, match="no_such"):
        llm.invoke("Hello", no_such=1)
    with pytest.raises(ValueError, match="no_such"):
        list(llm.stream("Hello", no_such=1))
    with pytest.raises(ValueError, match="no_such"):
        await llm.ainvoke("Hello", no_such=1)
    with pytest.raises(ValueError, match="no_such"):
        [c async for c in llm.astream("Hello", no_such=1)]


def test_options_of_the_call(llm):
    info = llm.generate(["Hello"], max_tokens=3, tags=["a"]).generations[0][0].generation_info
    assert info["usage"]["output_tokens"] == 3


def test_control_tokens_are_text(llm, engine):
    info = llm.generate(["<|im_start|>system"]).generations[0][0].generation_info
    start = engine.tokenizer.convert_tokens_to_ids("<|im_start|>")
    tokens = engine.tokenize("<|im_start|>system")
    assert start not in tokens.ids
    assert info["usage"]["input_tokens"] == len(tokens)


def test_the_engine_shows_nowhere(llm):
    assert "SteeredModel(" not in repr(llm) + str(llm.model_dump()) + str(llm._identifying_params)
