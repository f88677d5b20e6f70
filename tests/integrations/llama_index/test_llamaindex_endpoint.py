"""SekaLLM over a server gives what it gives over the same model in this process."""

from __future__ import annotations

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.seka import SekaLLM, SekaLLMError, collect_reports, mark_message
from serving import running

from seka_rag import Prompt, Seka, Span
from seka_rag.errors import RemoteError

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])
TEXT = "Astrid moved to Lyon. Where does Astrid live?"
MARKED = [ChatMessage("Be brief.", role="system"), mark_message(ChatMessage(TEXT), [Span(0, 21, 1.0, "note")])]
QUESTION = "Where did Astrid move to?"


@pytest.fixture(scope="module")
def url(engine):
    with running(engine, api_key="secret", max_gain=20) as url:
        yield url


@pytest.fixture(scope="module")
def pair(engine, url):
    """A local and a remote model."""
    own = {"max_tokens": 6, "steering": Seka(gain=20.0)}
    return SekaLLM(steered_model=engine, **own), SekaLLM(base_url=url, api_key="secret", **own)


def answer(response):
    return (
        response.text if hasattr(response, "text") else response.message.content,
        response.additional_kwargs,
        response.raw,
    )


def known(response):
    text, extra, raw = answer(response)
    return text, extra, {**raw, "model": None}


async def test_calls_are_the_same(pair):
    near, far = pair
    prompt = Prompt(TEXT).mark(0, 21)
    for one, two in (
        (near.chat(MARKED), far.chat(MARKED)),
        (near.chat(MARKED), await far.achat(MARKED)),
        (near.complete(prompt), far.complete(prompt)),
        (near.complete(prompt, formatted=True), await far.acomplete(prompt, formatted=True)),
        (list(near.stream_chat(MARKED))[-1], list(far.stream_chat(MARKED))[-1]),
        (list(near.stream_complete(prompt))[-1], [r async for r in await far.astream_complete(prompt)][-1]),
    ):
        assert known(one) == known(two)
        assert two.additional_kwargs["seka"]["tokens_edited"] > 0
    assert far.chat(MARKED).message.content != far.chat(MARKED, highlight="off").message.content


def test_a_query_engine_highlights_what_it_retrieved(pair, index):
    with collect_reports() as reports:
        answers = [str(index.as_query_engine(llm=llm).query(QUESTION)) for llm in pair]
    assert answers[0] == answers[1]
    assert reports[0]["highlights"] == reports[1]["highlights"] != []


def test_what_llamaindex_is_told_of_the_model(pair):
    near, far = (llm.metadata for llm in pair)
    assert near.model_dump(exclude={"model_name"}) == far.model_dump(exclude={"model_name"})
    assert far.is_chat_model


def test_tools(pair):
    tool = FunctionTool.from_defaults(lambda: "It rains.", name="weather", description="The weather.")
    called = [llm.chat_with_tools([tool], "How is it?", tool_required=True, max_tokens=40) for llm in pair]
    names = [[c.tool_name for c in llm.get_tool_calls_from_response(r)] for llm, r in zip(pair, called, strict=True)]
    assert names == [["weather"], ["weather"]]


def test_mistakes(engine, url):
    for wrong in ({"steered_model": engine}, {"bank": "x"}, {"model_kwargs": {"dtype": "auto"}}):
        with pytest.raises(ValueError, match="give one of the two"):
            SekaLLM(base_url=url, **wrong)
    with pytest.raises(SekaLLMError, match="takes no option num_beams"):
        SekaLLM(base_url=url, api_key="secret").chat(MARKED, num_beams=2)
    with pytest.raises(Exception, match="wants its key"):
        SekaLLM(base_url=url, api_key="wrong", is_chat_model=True).chat(MARKED)
    with pytest.raises(RemoteError, match=r"cannot reach http://127\.0\.0\.1:9"):
        SekaLLM(base_url="http://127.0.0.1:9/v1", max_retries=0).chat(MARKED)
    assert (
        "secret"
        not in repr(SekaLLM(base_url=url, api_key="secret")) + SekaLLM(base_url=url, api_key="secret").to_json()
    )
