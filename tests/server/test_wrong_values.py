"""A wrong value is refused with its field and is never a failure of the server; limits come before any work."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patience import PATIENCE
from serving import root, web

from seka_rag.server import service
from seka_rag.server.bodies import ChatBody
from seka_rag.server.model_request import ModelRequest

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])
MESSAGES = [{"role": "user", "content": "Where is Alec?"}]
SPAN = {"message": 0, "start": 0, "end": 5}
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def chat(**fields):
    return {"messages": MESSAGES, "max_tokens": 1, **fields}


def said(call):
    return chat(messages=[*MESSAGES, {"role": "assistant", "content": "", "tool_calls": [call]}])


def seka(**fields):
    return chat(seka={"spans": [SPAN], **fields})


WRONG = [
    (seka(spans=[{**SPAN, "weight": 10**400}]), "seka.spans[0].weight"),
    (seka(spans=[{**SPAN, "weight": True}]), "seka.spans[0].weight"),
    (seka(spans=[{**SPAN, "end": 10**400}]), "seka.spans[0]"),
    (seka(spans=[{**SPAN, "end": 2.5}]), "seka.spans[0].end"),
    (seka(spans={}), "seka.spans"),
    (seka(steering={"method": []}), "seka.steering"),
    (seka(steering={"method": {}}), "seka.steering"),
    (seka(steering={"method": "Seka", "gain": "much"}), "seka.steering"),
    (seka(steering={"method": "Seka", "gain": 10**400}), "seka.steering"),
    (seka(steering={"method": "Seka", "layers": "all"}), "seka.steering"),
    (seka(steering={"method": "AdaSeka", "router": []}), "seka.steering"),
    (seka(steering=[]), "seka.steering"),
    (chat(seka=3), "seka"),
    (said({**CALL, "id": 5}), "messages[1].tool_calls[0].id"),
    (said({**CALL, "function": "user"}), "messages[1].tool_calls[0].function"),
    (said({**CALL, "function": {"name": "f", "arguments": "["}}), "messages[1].tool_calls[0].function.arguments"),
    (said({**CALL, "function": {"name": "f", "arguments": "3"}}), "messages[1].tool_calls[0].function.arguments"),
    (said({**CALL, "function": {"name": 3, "arguments": {}}}), "messages[1].tool_calls[0].function.name"),
    (chat(tools=[{"type": "function", "function": "user"}]), "tools[0].function"),
    (chat(tools=[{"type": "function", "function": {"name": "a b"}}]), "tools[0].function.name"),
    (chat(tools=[{"type": "function", "function": {"name": "f", "parameters": []}}]), "tools[0].function.parameters"),
    (chat(tools={}), "tools"),
    (chat(tool_choice=[]), "tool_choice"),
    (chat(tool_choice={"type": "function"}), "tool_choice.function"),
    (chat(response_format={"type": "json_schema"}), "response_format"),
    (chat(response_format={"type": "json_schema", "json_schema": {"schema": 3}}), "response_format.json_schema.schema"),
    (chat(response_format={"type": "json_schema", "json_schema": {"schema": {"type": 3}}}), "response_format"),
    (chat(response_format="json"), "response_format"),
    (chat(stop=[1]), "stop[0]"),
    (chat(stop={}), "stop"),
    (chat(seed=2**64), "seed"),
    (chat(temperature=[]), "temperature"),
    (chat(temperature=True), "temperature"),
    (chat(temperature="1"), "temperature"),
    (chat(top_k=10**30), "top_k"),
    (chat(max_tokens=1.5), "max_tokens"),
    (chat(stream="yes"), "stream"),
    (chat(stream_options=[]), "stream_options"),
    (chat(model=3), "model"),
    (chat(messages={}), "messages"),
    (chat(messages=["x"]), "messages[0]"),
    (chat(messages=[{"role": "user", "content": 3}]), "messages[0].content"),
    (chat(messages=[{"role": "user", "content": [{"type": "text"}]}]), "messages[0].content[0].text"),
    (chat(messages=[{"role": "tool", "content": "x", "tool_call_id": 7}]), "messages[0].tool_call_id"),
]


@pytest.mark.parametrize(("body", "field"), WRONG)
def test_the_field_is_named(post, body, field):
    answer = post("/chat/completions", body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, field), error


ACCEPTED = [
    {"temperature": 2, "seed": 1},
    {"repetition_penalty": 2},
    {"top_p": 1, "temperature": 1, "seed": 1},
    dict.fromkeys(
        (
            "temperature",
            "top_p",
            "seed",
            "stop",
            "tools",
            "tool_choice",
            "response_format",
            "stream",
            "seka",
            "n",
            "user",
        )
    ),
    dict.fromkeys(("logprobs", "stream_options", "parallel_tool_calls", "audio", "reasoning_effort", "functions")),
    {"seka": {"spans": None, "strict": None}},
    {"seka": {"spans": [{**SPAN, "weight": 1, "source": None}]}},
]


@pytest.mark.parametrize("fields", ACCEPTED)
def test_whole_numbers_and_nulls_are_accepted(post, fields):
    answer = post("/chat/completions", chat(**fields))
    assert answer.status_code == 200, answer.text


def test_a_whole_number_is_the_same_as_its_fraction(post):
    def text(**fields):
        body = {"prompt": "Alec", "max_tokens": 12, **fields}
        return post("/completions", body).json()["choices"][0]["text"]

    assert text(temperature=1e-300, seed=3) == text(temperature=0) == text()
    assert text(temperature=2, seed=3) == text(temperature=2.0, seed=3) != text()
    assert text(repetition_penalty=2) == text(repetition_penalty=2.0) != text()


def test_null_steering_is_the_plain_model(post):
    assert post("/chat/completions", seka(steering=None)).json()["seka"]["method"] == "none"
    assert post("/chat/completions", seka()).json()["seka"]["method"] == "Seka"


SCHEMA = {"type": "object", "properties": {"a" * 70_000: {}}}
TOO_MUCH = [
    (chat(seka={"spans": [SPAN] * 30_000}), "seka.spans"),
    (chat(messages=[{"role": "user", "content": "a"}] * 50_000), "messages"),
    (chat(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}] * 3000}]), "messages"),
    (chat(messages=[{"role": "assistant", "content": "", "tool_calls": [CALL] * 3000}]), "messages"),
    (chat(tools=[{"type": "function", "function": {"name": "f"}}] * 129), "tools"),
    (chat(tools=[{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]), "tools[0]"),
    (chat(response_format={"type": "json_schema", "json_schema": {"schema": SCHEMA}}), "response_format"),
    (chat(stop=["a"] * 17), "stop"),
    (chat(stop="a" * 257), "stop"),
]


@pytest.mark.parametrize(("body", "field"), TOO_MUCH)
def test_too_much_is_refused_before_any_work(post, monkeypatch, body, field):
    """The body is read as JSON, and its parts are only counted."""
    taken_apart = []
    monkeypatch.setattr(ChatBody, "model_validate", taken_apart.append)
    answer = post("/chat/completions", body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "LimitError")
    assert answer.json()["error"]["param"] == field
    assert not taken_apart


def test_a_request_nested_too_deeply(post):
    for levels in (100, 900, 30_000):
        nested = b"[" * levels + b"]" * levels
        body = b'{"messages": [{"role": "user", "content": "x"}], "response_format": ' + nested + b"}"
        answer = post("/chat/completions", body)
        assert (answer.status_code, "nested too deeply" in answer.text) == (400, True)


def test_others_are_answered_while_a_request_is_read(url, post, monkeypatch):
    """Each step of it waits until the server has answered somebody else."""
    there, go_on, steps = threading.Semaphore(0), threading.Semaphore(0), []

    def held(work):
        def hold(*args):
            there.release()
            steps.append(go_on.acquire(timeout=PATIENCE))
            return work(*args)

        return hold

    monkeypatch.setattr(service, "parse", held(service.parse))
    monkeypatch.setattr(service, "read_request", held(service.read_request))
    monkeypatch.setattr(ModelRequest, "tokens", held(ModelRequest.tokens))
    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(post, "/chat/completions", chat(messages=[{"role": "user", "content": "home " * 5000}]))
        for _ in range(3):
            assert there.acquire(timeout=PATIENCE)
            assert web.get(root(url) + "/health").status_code == 200
            go_on.release()
    assert steps == [True] * 3
    assert request.result().status_code == 400  # more than the context holds


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
FIELDS = (
    "messages model seka max_tokens max_completion_tokens temperature top_p top_k min_p repetition_penalty seed stop tools "
    "tool_choice parallel_tool_calls response_format stream stream_options n logprobs top_logprobs logit_bias echo suffix "
    "chat_template_kwargs prompt input instructions max_output_tokens text user metadata"
).split()
PLACES = [
    ("seka", "spans"), ("seka", "steering"), ("seka", "spans", 0, "weight"), ("seka", "spans", 0, "source"),
    ("seka", "spans", 0, "message"), ("seka", "steering", "method"), ("seka", "steering", "gain"),
    ("seka", "steering", "layers"), ("messages", 0), ("messages", 0, "content"), ("messages", 0, "name"),
    ("messages", 1, "tool_calls"), ("messages", 1, "tool_calls", 0), ("messages", 1, "tool_calls", 0, "id"),
    ("messages", 1, "tool_calls", 0, "function"), ("messages", 1, "tool_calls", 0, "function", "arguments"),
    ("tools", 0), ("tools", 0, "function"), ("tools", 0, "function", "name"), ("tools", 0, "function", "parameters"),
    ("tools", 0, "function", "parameters", "properties"), ("tools", 0, "function", "description"),
    ("response_format", "json_schema"), ("response_format", "json_schema", "schema"), ("response_format", "type"),
    ("text", "format"), ("text", "format", "schema"), ("answer",), ("excerpts", 0), ("excerpts", 0, "start"),
    ("excerpts", 0, "passage"),
    *((name,) for name in FIELDS),
]  # fmt: skip


def whole_request():
    tool = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}
    return {
        "messages": [*MESSAGES, {"role": "assistant", "content": "", "tool_calls": [CALL]}, *MESSAGES],
        "max_tokens": 1,
        "seka": {"spans": [SPAN], "steering": {"method": "Seka", "gain": 0.5}},
        "tools": [{"type": "function", "function": tool}],
        "tool_choice": "none",
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
    }


@pytest.fixture(scope="module")
def connection():
    with httpx.Client(timeout=PATIENCE) as client:
        yield client


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.sampled_from(PLACES),
    value=JSON,
    path=st.sampled_from(["/chat/completions", "/completions", "/../tokenize", "/responses", "/citations"]),
)
def test_no_value_makes_the_server_fail_or_hang(url, connection, place, value, path):
    plain = {
        "/completions": {"prompt": "x", "max_tokens": 1},
        "/responses": {"input": "x", "max_output_tokens": 1},
        "/citations": {"prompt": "x", "answer": "x", "excerpts": [{"passage": 0, "start": 0, "end": 1}]},
    }
    body = {**plain[path], "seka": {"spans": [{**SPAN, "end": 1}]}} if path in plain else whole_request()
    body = deepcopy(body)  # it is changed below, and its parts are those of other tests
    here = body
    for key in place[:-1]:
        here = here[key] if isinstance(here, list) or key in here else here.setdefault(key, {})
        if not isinstance(here, dict | list) or (isinstance(here, list) and not here):
            return
    if isinstance(here, list) != isinstance(place[-1], int):
        return
    here[place[-1]] = value
    try:
        data = json.dumps(body).encode()
    except ValueError:
        return
    address = url.removesuffix("/v1") + "/tokenize" if "tokenize" in path else url + path
    answer = connection.post(address, content=data, headers={"content-type": "application/json"})
    assert answer.status_code in (200, 400, 404), (place, value, answer.text)
    if answer.status_code != 200:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
