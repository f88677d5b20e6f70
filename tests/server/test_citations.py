"""Citations over HTTP are those of the same model in this process; what is wrong in a request is named."""

from __future__ import annotations

import httpx
import pytest
from serving import running

from seka_rag import RemoteModel, SteeredModel
from seka_rag.errors import RemoteError, SpanError
from seka_rag.hf.tokens import tokenize
from seka_rag.model.citations import cite, excerpts_of
from seka_rag.server.client.wire import read_citations
from seka_rag.text.prompt import Prompt
from seka_rag.text.spans import Span

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])
PASSAGES = ("The harbour is busy in summer.", "It rained. The home of Alec is in Lyon.")
QUESTION = "Which city is the home of Alec?"
TEXT = "\n".join((*PASSAGES, QUESTION))
TOOL = {"type": "function", "function": {"name": "search", "parameters": {"type": "object", "properties": {}}}}
ANSWER = "Lyon. The harbour is busy."


@pytest.fixture(scope="module")
def demo() -> SteeredModel:
    return SteeredModel.from_pretrained("seka-demo")


@pytest.fixture(scope="module")
def url(demo):
    with running(demo, max_new_tokens=32, max_prompt_tokens=256) as url:
        yield url


def excerpts(message: int):
    starts = [TEXT.index(p) for p in PASSAGES]
    return [
        e
        for i, (start, p) in enumerate(zip(starts, PASSAGES, strict=True))
        for e in excerpts_of(i, p, message, lambda span, start=start: [Span(span.start + start, span.end + start)])
    ]


def test_they_are_those_of_the_model_there(demo, url):
    far = RemoteModel(url, max_retries=0)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": Prompt(TEXT)}]
    for prompt, number, template in (
        (messages, 1, {}),
        (messages, 1, {"tools": [TOOL]}),
        (Prompt(TEXT + "\nAnswer:"), 0, {}),
    ):
        near = cite(demo, prompt, ANSWER, excerpts(number), template=template)
        assert far.cite(prompt, ANSWER, excerpts(number), template=template) == near
        first = {c.answer_start: c.excerpt for c in reversed(near)}  # the best of each sentence stands first
        assert first == {0: 2, 6: 0}
    assert far.can_cite
    assert far.cite(messages, ANSWER, []) == far.cite(messages, "...", excerpts(1)) == ()


def body(**changes):
    whole = {
        "messages": [{"role": "user", "content": TEXT}],
        "answer": ANSWER,
        "excerpts": [{"passage": 7, "message": 0, "start": 0, "end": 30}],
    }
    return {name: value for name, value in {**whole, **changes}.items() if value is not None}


def test_any_client_may_ask(url):
    (cited,) = [c for c in httpx.post(url + "/citations", json=body()).json()["citations"] if c["answer_start"] == 6]
    assert cited == {"answer_start": 6, "answer_end": 26, "passage": 7, "excerpt": 0, "share": 1.0}


def test_prompt_and_answer_are_tokenized_once(url, monkeypatch):
    texts = []
    for module in ("model.citations", "model.steered", "hf.chat"):
        monkeypatch.setattr(
            f"seka_rag.{module}.tokenize", lambda *a, **k: (texts.append(a[1].text), tokenize(*a, **k))[1]
        )
    assert httpx.post(url + "/citations", json=body()).json()["citations"]
    assert len(texts) == 2
    assert TEXT in texts[0]
    assert texts[1] == ANSWER


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"answer": None}, "answer"),
        ({"answer": 3}, "answer"),
        ({"answer": "Lyon " * 99}, "answer"),
        ({"excerpts": None}, "excerpts"),
        ({"excerpts": [{"passage": 0, "message": 1, "start": 0, "end": 3}]}, "excerpts[0].message"),
        ({"excerpts": [{"passage": 0, "start": 0, "end": 3}]}, "excerpts[0].message"),
        ({"excerpts": [{"passage": 0, "message": 0, "start": 0, "end": 9999}]}, "excerpts[0]"),
        ({"excerpts": [{"passage": 0, "message": 0, "start": 3, "end": 3}]}, "excerpts[0]"),
        ({"excerpts": [{"passage": -1, "message": 0, "start": 0, "end": 3}]}, "excerpts[0].passage"),
        ({"messages": [{"role": "user", "content": TEXT + " and" * 300}]}, "messages"),
        (
            {"messages": None, "prompt": TEXT + " and" * 300, "excerpts": [{"passage": 0, "start": 0, "end": 3}]},
            "prompt",
        ),
        ({"chat_template_kwargs": {"tokenize": False}}, "chat_template_kwargs"),
        ({"prompt": "x"}, None),
        ({"temperature": 1.0}, "temperature"),
        ({"model": "other"}, "model"),
    ],
)
def test_what_is_wrong_is_named(url, changes, field):
    answer = httpx.post(url + "/citations", json=body(**changes))
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["param"] == field


def test_errors_are_those_of_a_local_model(url):
    with pytest.raises(SpanError) as caught:
        RemoteModel(url).cite(Prompt("Short."), ANSWER, excerpts(0))
    assert caught.value.field == "excerpts[0]"
    with pytest.raises(RemoteError, match="not with citations"):
        read_citations({"choices": []}, (), url="http://x")
