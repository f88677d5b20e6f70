"""ChatSeka and SekaLLM over a server give what they give over the same model in this process."""

from __future__ import annotations

import pytest
from langchain_chains import ask, rag
from langchain_core.messages import HumanMessage
from langchain_seka import ChatSeka, SekaLLM, mark_message
from langchain_tests.integration_tests import ChatModelIntegrationTests
from serving import running
from test_langchain_standard import TestStandardIntegration

from seka_rag import Seka, SekaError, Span, SteeredModel
from seka_rag.errors import RemoteError

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])
TEXT = "Astrid moved to Lyon. Where does Astrid live?"
MARKED = mark_message(HumanMessage(TEXT), [Span(0, 21, 1.0, "note")])


@pytest.fixture(scope="module")
def url(engine):
    with running(engine, api_key="secret", max_gain=20) as url:
        yield url


@pytest.fixture(scope="module")
def pairs(engine, url):
    """A local and a remote model of each kind."""
    far = {"base_url": url, "api_key": "secret", "max_tokens": 6, "steering": Seka(gain=20.0)}
    near = {"steered_model": engine, "max_tokens": 6, "steering": Seka(gain=20.0)}
    return [(cls(**near), cls(**far)) for cls in (ChatSeka, SekaLLM)]


def test_chat_is_the_same(pairs):
    near, far = pairs[0]
    one, two = near.invoke([MARKED]), far.invoke([MARKED])
    assert (one.content, one.usage_metadata, one.response_metadata) == (
        two.content,
        two.usage_metadata,
        two.response_metadata,
    )
    assert two.response_metadata["seka"]["tokens_edited"] > 0
    assert two.content != far.invoke(TEXT).content
    assert far.get_num_tokens(TEXT) == near.get_num_tokens(TEXT)


async def test_streams_are_the_same(pairs):
    near, far = pairs[0]
    told = [list(near.stream([MARKED])), list(far.stream([MARKED])), [c async for c in far.astream([MARKED])]]
    assert all([c.content for c in chunks] == [c.content for c in told[0]] for chunks in told)
    assert all(c[-1].response_metadata == told[0][-1].response_metadata for c in told)
    assert (await far.ainvoke([MARKED])).content == near.invoke([MARKED]).content


def test_a_chain_highlights_what_it_retrieved(pairs):
    near, far = (rag(model).invoke(ask("Astrid")) for model in pairs[0])
    assert near.response_metadata["seka"]["highlights"] == far.response_metadata["seka"]["highlights"] != []
    assert near.content == far.content


async def test_completions_are_the_same(pairs):
    near, far = pairs[1]
    prompts = [TEXT, "Hello Astrid", "Boris works as a baker."]
    assert near.batch(prompts) == far.batch(prompts) == await far.abatch(prompts)
    assert list(near.stream(TEXT)) == list(far.stream(TEXT))


def test_mistakes(engine, url):
    for wrong in ({"steered_model": engine}, {"bank": "x"}, {"model_kwargs": {"dtype": "auto"}}):
        with pytest.raises(ValueError, match="give one of the two"):
            ChatSeka(base_url=url, **wrong)
    with pytest.raises(ValueError, match="a server takes no num_beams"):
        ChatSeka(base_url=url, generate_kwargs={"num_beams": 2})
    with pytest.raises(SekaError, match="takes no option num_beams"):
        ChatSeka(base_url=url).invoke("x", num_beams=2)
    with pytest.raises(SekaError, match="wants its key"):
        ChatSeka(base_url=url, api_key="wrong").invoke("x")
    with pytest.raises(RemoteError, match=r"cannot reach http://127\.0\.0\.1:9"):
        ChatSeka(base_url="http://127.0.0.1:9/v1", max_retries=0).invoke("x")
    assert "secret" not in repr(ChatSeka(base_url=url, api_key="secret"))


@pytest.fixture(scope="module")
def leaning():
    """The demo's model that ends its strings, as in the suites over the model in this process."""
    model = SteeredModel.from_pretrained("seka-demo")
    colon, quote = model.tokenizer.convert_tokens_to_ids([":", '"'])
    model.hf_model.generation_config.sequence_bias = [[[quote], 14.0], [[colon, quote, quote], -28.0]]
    with running(model) as url:
        yield url


class TestStandardOverHttp(TestStandardIntegration):
    url = ""

    @pytest.fixture(autouse=True)
    def _served(self, leaning):
        type(self).url = leaning

    @property
    def chat_model_params(self):
        return {"base_url": self.url, "model": "seka-demo", "max_tokens": 100}


# what the suites over the same model in this process do not already show
_SHOWN = ("invoke", "stream", "usage", "tool", "structured", "stop", "conversation", "batch", "json")
for _name in [n for n in dir(ChatModelIntegrationTests) if n.startswith("test_") and not any(w in n for w in _SHOWN)]:
    setattr(TestStandardOverHttp, _name, None)
del TestStandardIntegration
