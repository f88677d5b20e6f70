"""What a server refuses, how it says so, and what ends a generation."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from patience import PATIENCE, until
from serving import at_work, root, running, web
from typer.testing import CliRunner

from seka_rag import Prompt, Seka, SteeredModel
from seka_rag.errors import MissingExtraError, SteeringError
from seka_rag.server import create_app

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])
SECRET = "Astrid hides it in Lyon"
MESSAGES = [{"role": "user", "content": SECRET}]


def spans(*own, **steering):
    return {"messages": MESSAGES, "seka": {"spans": list(own), **({"steering": steering} if steering else {})}}


BAD = [
    ({"messages": MESSAGES, "model": "other"}, 404, "ModelNotFoundError", "model"),
    ({"messages": []}, 400, "RequestError", "messages"),
    ({}, 400, "RequestError", "messages"),
    ({"messages": MESSAGES, "n": 9}, 400, "LimitError", "n"),
    ({"messages": MESSAGES, "n": 0}, 400, "RequestError", "n"),
    ({"messages": MESSAGES, "top_logprobs": 21, "logprobs": True}, 400, "RequestError", "top_logprobs"),
    ({"messages": MESSAGES, "logit_bias": {"3": 1}}, 400, "RequestError", "logit_bias"),
    ({"messages": MESSAGES, "presence_penalty": 0.5}, 400, "RequestError", "presence_penalty"),
    ({"messages": MESSAGES, "max_new_tokens": 3}, 400, "RequestError", "max_new_tokens"),
    ({"messages": MESSAGES, "chat_template": "{{ 1 }}"}, 400, "RequestError", "chat_template"),
    ({"messages": MESSAGES, "bank": "/etc"}, 400, "RequestError", "bank"),
    ({"messages": MESSAGES, "temperature": -1}, 400, "RequestError", "temperature"),
    ({"messages": MESSAGES, "max_tokens": 0}, 400, "RequestError", "max_tokens"),
    ({"messages": MESSAGES, "max_tokens": 99999}, 400, "LimitError", "max_tokens"),
    ({"messages": MESSAGES, "max_tokens": 2040}, 400, "ContextLengthError", "messages"),
    ({"messages": MESSAGES, "tool_choice": "required"}, 400, "RequestError", "tool_choice"),
    ({"messages": MESSAGES, "tools": [{"type": "x"}]}, 400, "RequestError", "tools[0].type"),
    ({"messages": MESSAGES, "response_format": {"type": "xml"}}, 400, "RequestError", "response_format.type"),
    ({"messages": [{"role": "root", "content": "x"}]}, 400, "RequestError", "messages[0].role"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        400,
        "RequestError",
        "messages[0].content[0].type",
    ),
    (spans({"message": 0, "start": 5, "end": 900}), 400, "SpanError", "seka.spans[0]"),
    (spans({"message": 0, "start": 5, "end": 5}), 400, "SpanError", "seka.spans[0]"),
    (spans({"message": 0, "start": -1, "end": 5}), 400, "SpanError", "seka.spans[0]"),
    (spans({"message": 1, "start": 0, "end": 5}), 400, "SpanError", "seka.spans[0].message"),
    (spans({"start": 0, "end": 5}), 400, "SpanError", "seka.spans[0].message"),
    (spans({"message": 0, "start": 0, "end": 5, "weight": -1}), 400, "SpanError", "seka.spans[0]"),
    (spans({"message": 0, "start": "0", "end": 5}), 400, "RequestError", "seka.spans[0].start"),
    (spans({"message": 0, "start": 0, "end": 5, "weight": 1000}), 400, "LimitError", "seka.spans"),
    (spans({"message": 0, "start": 0, "end": 5}, method="Seka", gain=4.1), 400, "LimitError", "seka.steering"),
    (
        spans({"message": 0, "start": 0, "end": 5}, method="Seka", gain=1, gain_neg=-9),
        400,
        "LimitError",
        "seka.steering",
    ),
    (spans({"message": 0, "start": 0, "end": 5}, method="Seka", path="/etc"), 400, "SettingError", "seka.steering"),
    (spans({"message": 0, "start": 0, "end": 5}, method="os.system"), 400, "SettingError", "seka.steering"),
    (spans({"message": 0, "start": 0, "end": 5}, method="AdaSeka"), 400, "BankError", "seka.steering"),
    (spans(*[{"message": 0, "start": 0, "end": 5}] * 257), 400, "LimitError", "seka.spans"),
]


@pytest.mark.parametrize(("body", "status", "code", "param"), BAD)
def test_refused(post, passes, body, status, code, param):
    for stream in ({}, {"stream": True}):  # what fails before the first piece has its own status in a stream as well
        answer = post("/chat/completions", {**body, **stream})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (status, code, param), error
        assert set(error) == {"message", "type", "param", "code"}
        assert SECRET not in answer.text
    assert passes == []


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b"", b"\xff", b'{"messages": ' + b"[" * 30000])
def test_no_json(post, body):
    answer = post("/chat/completions", body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_none(post, number):
    for body in (
        f'{{"messages": [{{"role": "user", "content": "x"}}], "temperature": {number}}}',
        f'{{"messages": [{{"role": "user", "content": "x"}}], "seka": {{"spans": [{{"message": 0, "start": 0, "end": 1, '
        f'"weight": {number}}}]}}}}',
        f'{{"messages": [{{"role": "user", "content": "x"}}], "seka": {{"steering": {{"method": "Seka", '
        f'"gain": {number}}}}}}}',
    ):
        assert post("/chat/completions", body.encode()).status_code == 400


def test_harmless_fields_and_other_paths(post, url):
    body = {
        "messages": MESSAGES,
        "max_tokens": 1,
        "user": "a",
        "metadata": {},
        "store": True,
        "n": 1,
        "logprobs": False,
    }
    assert post("/chat/completions", body).status_code == 200
    lone = {"role": "user", "content": "\ud800"}
    assert post("/chat/completions", {"messages": [lone]}).status_code == 400
    for answer in (web.get(url + "/nothing"), web.get(url + "/chat/completions")):
        assert answer.status_code in (404, 405)
        assert "message" in answer.json()["error"]


def test_own_limits_and_key(demo):
    limits = {"max_body": 2000, "max_prompt_tokens": 20, "max_spans": 1, "max_new_tokens": 5, "max_gain": 1}
    with running(demo, api_key="sesame", **limits) as url:
        key = {"Authorization": "Bearer sesame"}

        def ask(body, headers=key, **own):
            answer = web.post(url + "/chat/completions", headers=headers, **({"json": body} | own))
            return answer.status_code, answer.json().get("error", {}).get("code")

        good = {"messages": MESSAGES}
        assert ask(good) == (200, None)
        for wrong in (
            {},
            {"Authorization": "Bearer sesam"},
            {"Authorization": "sesame"},
            {"Authorization": "Bearer \xe9"},
        ):
            assert ask(good, {k: v.encode("latin-1") for k, v in wrong.items()}) == (401, "AccessError")
        assert web.get(url + "/models").status_code == 401
        assert web.get(root(url) + "/health").status_code == 200
        assert ask({"messages": [{"role": "user", "content": "x" * 3000}]}) == (413, "LimitError")
        chunks = iter([b"x" * 1500, b"x" * 1500])
        assert ask(None, json=None, content=chunks) == (413, "LimitError")
        assert ask({"messages": [{"role": "user", "content": "a " * 30}]}) == (400, "LimitError")
        assert ask({**good, "max_tokens": 6}) == (400, "LimitError")
        two = [{"message": 0, "start": i, "end": i + 5} for i in (0, 3)]
        assert ask({**good, "seka": {"spans": two}}) == (400, "LimitError")
        assert ask({**good, "seka": {"spans": two[:1], "steering": {"method": "Seka", "gain": 1.5}}}) == (
            400,
            "LimitError",
        )


LONG = {"prompt": "Alec", "max_tokens": 2000, "repetition_penalty": 5.0}


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_ends_its_generation(demo, passes, endless, stream):
    with running(demo, max_concurrent=1) as url:
        host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
        body = json.dumps({**LONG, "stream": stream}).encode()
        head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        with socket.create_connection((host, int(port))) as client:
            client.sendall(head.encode() + body)
            until(lambda: len(passes) > 3)
        answer = web.post(url + "/completions", json={"prompt": "Alec", "max_tokens": 1})  # its slot is free
        assert answer.status_code == 200
        ran = len(passes)
        assert ran < 1900  # of 2000
        time.sleep(0.1)
        assert len(passes) == ran


def test_a_full_queue(demo, gate):
    def ask():
        return web.post(url + "/completions", json={"prompt": "Alec", "max_tokens": 1})

    with running(demo, max_concurrent=1, max_queue=1) as url, ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask)
        until(lambda: at_work(url) == (1, 0))
        second = pool.submit(ask)
        until(lambda: at_work(url) == (1, 1))
        refused = ask()
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "BusyError")
        assert refused.headers["retry-after"] == "1"
        gate.set()
    assert first.result().status_code == second.result().status_code == 200


def test_the_time_of_a_request_counts_from_its_arrival(demo, gate):
    """The first one is stopped in the middle, the second one while it waits for it."""
    with running(demo, max_concurrent=1, timeout=1) as url, ThreadPoolExecutor(2) as pool:
        answers = pool.map(lambda _: web.post(url + "/completions", json=LONG), range(2))
        told = [(a.status_code, a.json()["error"]["code"]) for a in answers]
    assert told == [(504, "GenerationTimeoutError")] * 2


async def test_fifty_at_once_are_as_each_alone(demo):
    names = ["Alec", "Maud", "Edna", "Astrid", "Boris"]
    asked = []
    for i in range(50):
        name, other = names[i % 5], ["Oslo", "Lyon", "Rome"][i % 3]
        text = (
            f"Context:\nThe home of {name} is in {other}.\n\nThe home of {name} is in Paris.\n\n"
            f"Question: Which city is the home of {name}?"
        )
        start = text.index("The home") if i % 2 else text.rindex("The home")
        asked.append((text, start, start + 20 + i % 7, i % 10 / 4))
    with running(demo, max_concurrent=8) as url:
        async with httpx.AsyncClient(timeout=PATIENCE, verify=False) as client:
            bodies = [
                {
                    "messages": [{"role": "user", "content": text}],
                    "max_tokens": 4,
                    "seka": {
                        "spans": [{"message": 0, "start": start, "end": end}],
                        "steering": {"method": "Seka", "gain": gain},
                    },
                }
                for text, start, end, gain in asked
            ]
            answers = await asyncio.gather(*(client.post(url + "/chat/completions", json=b) for b in bodies))
    for (text, start, end, gain), answer in zip(asked, answers, strict=True):
        alone = demo.chat(
            [{"role": "user", "content": Prompt(text).mark(start, end)}], steering=Seka(gain=gain), max_new_tokens=4
        )
        told = answer.json()
        assert told["choices"][0]["message"]["content"] == alone.text
        own = told["seka"]
        mark = own.pop("highlights")[0]
        assert (mark["start"], mark["end"]) == (start, end)
        assert own == alone.report.as_dict()
    assert len({a.json()["choices"][0]["message"]["content"] for a in answers}) > 3


def test_a_failure_tells_nothing(demo, post, monkeypatch, caplog):
    def fail(*args, **kwargs):
        raise RuntimeError(f"bad luck with {SECRET}")

    monkeypatch.setattr(demo.hf_model, "generate", fail)
    for stream in (False, True):
        answer = post("/chat/completions", {"messages": MESSAGES, "stream": stream})
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "InternalError")
        assert "Traceback" not in answer.text
        assert SECRET not in answer.text + caplog.text
    assert "RuntimeError at" in caplog.text


@pytest.mark.parametrize(
    ("body", "kind"),
    [(b"{", "application/json"), (b"", "application/json"), (b"{}", "text/plain"), (b"3", "application/json")],
)
def test_a_body_that_is_no_object(url, body, kind):
    answer = web.post(url + "/chat/completions", content=body, headers={"content-type": kind})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, None)
    assert error["message"].startswith(
        "the body must be one JSON object, sent with the header Content-Type = application/json"
    )


def test_an_empty_stop_string_stops_nothing(demo, url):
    asked = [{"role": "user", "content": "Which city is the home of Alec?"}]
    wanted = demo.chat(asked, max_new_tokens=3).text
    assert wanted
    assert demo.chat(asked, max_new_tokens=3, stop="").text == wanted
    answer = web.post(url + "/chat/completions", json={"messages": asked, "max_tokens": 3, "stop": ""}).json()
    assert answer["choices"][0]["message"]["content"] == wanted


class TestStart:
    def test_a_model_that_is_not_steered_is_not_served(self, demo, monkeypatch):
        with pytest.raises(SteeringError, match="has no bank"):
            create_app(SteeredModel(demo.hf_model, demo.tokenizer, name="bare"))
        still = SteeredModel(demo.hf_model, demo.tokenizer, bank=demo.bank, steering=Seka(gain=0), name="still")
        with pytest.raises(SteeringError, match="edited no key"):
            create_app(still)
        faint = SteeredModel(demo.hf_model, demo.tokenizer, bank=demo.bank, steering=Seka(gain=1e-30), name="faint")
        with pytest.raises(SteeringError, match="the answer is as without"):
            create_app(faint)

    @pytest.mark.slow
    def test_the_command(self):
        command = [sys.executable, "-c", "from seka_rag.cli import app; app()", "serve", "seka-demo"]
        environment = {**os.environ, "SEKA_API_KEY": "k", "COLUMNS": "200"}
        started = subprocess.Popen(
            [*command, "--port", "0", "--max-gain", "2"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            url = started.stdout.readline().split()[-1]
            body = {"prompt": "Alec", "max_tokens": 1, "seka": {"steering": {"method": "Seka", "gain": 3}}}
            assert web.post(url + "/completions", json=body).status_code == 401
            answer = web.post(url + "/completions", json=body, headers={"Authorization": "Bearer k"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "LimitError")
        finally:
            started.send_signal(signal.SIGINT)
            _, told = started.communicate(timeout=PATIENCE)
        assert started.returncode == 0
        assert '"error": "LimitError"' in told
        assert "Traceback" not in told

    def test_a_folder_without_a_model(self, tmp_path):
        from seka_rag.cli import app

        done = CliRunner().invoke(app, ["serve", str(tmp_path), "--port", "0"], env={"COLUMNS": "300"})
        assert done.exit_code == 1
        assert "it has no config.json" in done.output

    def test_a_port_in_use(self):
        from seka_rag.cli import app

        with socket.create_server(("127.0.0.1", 0)) as other:
            port = str(other.getsockname()[1])
            done = CliRunner().invoke(app, ["serve", "seka-demo", "--port", port], env={"COLUMNS": "200"})
        assert done.exit_code == 1
        assert f"cannot listen at 127.0.0.1, port {port}" in done.output

    def test_without_the_extra(self, demo, monkeypatch):
        monkeypatch.setitem(sys.modules, "starlette", None)
        with pytest.raises(MissingExtraError, match=r"seka-rag\[server\]"):
            create_app(demo)
