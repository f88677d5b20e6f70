"""What operators need: figures, ids, a log, readiness, names, and a server that runs requests together."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from openai import OpenAI
from patience import PATIENCE, until, until_true
from serving import answered, at_work, figures, root, running, web

from seka_rag import Prompt, Seka
from seka_rag.server import ServerSettings, create_app
from seka_rag.server.logs import Lines

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])
SECRET = "Astrid hides it in Lyon"
MESSAGES = [{"role": "user", "content": SECRET}]
SPAN = {"message": 0, "start": 0, "end": 6, "source": "note\n1"}


@pytest.fixture
def lines(caplog):
    """The lines of the log; they are written after the answer was sent."""
    caplog.set_level(logging.INFO, "seka_rag.server")

    def read(count):
        def found():
            return [json.loads(r.getMessage()) for r in caplog.records if r.name == "seka_rag.server"]

        until(lambda: len(found()) >= count)
        return found()

    return read


def test_figures(demo):
    with running(demo) as url:
        body = {"messages": MESSAGES, "max_tokens": 2}
        marked = web.post(url + "/chat/completions", json={**body, "seka": {"spans": [SPAN]}}).json()
        plain = web.post(url + "/chat/completions", json={**body, "stream": True})
        assert plain.status_code == 200
        web.post(url + "/chat/completions", json={"messages": []})
        web.get(url + "/nothing")
        until(lambda: answered(url, "/v1/chat/completions") + answered(url, "other") == 4)  # after they were sent
        seen = figures(url)
    assert seen["seka_requests_total", "/v1/chat/completions", "200"] == 2
    assert seen["seka_requests_total", "/v1/chat/completions", "400"] == 1
    assert seen["seka_requests_total", "404", "other"] == 1
    assert seen[("seka_errors_total", "RequestError")] == 2
    usage = marked["usage"]
    assert seen[("seka_prompt_tokens_total",)] == 2 * usage["prompt_tokens"]
    assert seen[("seka_highlighted_tokens_total",)] == marked["seka"]["tokens_edited"] == 1
    assert seen[("seka_unmarked_requests_total",)] == 1
    assert 2 <= seen[("seka_completion_tokens_total",)] <= 4
    for name in ("seka_queue_seconds", "seka_first_token_seconds", "seka_batch_rows"):
        assert seen[(f"{name}_count",)] == 2
    assert seen["seka_request_seconds_count", "/v1/chat/completions"] == 3
    assert (seen[("seka_running_requests",)], seen[("seka_waiting_requests",)]) == (0, 0)


def test_about_the_server(demo):
    with running(demo, api_key="k") as url:
        for path in ("/health", "/healthz", "/readyz"):  # without a key: what starts and restarts it has none
            assert web.get(root(url) + path).status_code == 200
        assert web.get(root(url) + "/healthz").json() == {"status": "ok"}
        for path in ("/version", "/metrics"):
            assert web.get(root(url) + path).status_code == 401
        key = {"Authorization": "Bearer k"}
        assert re.match(r"\d+\.\d+", web.get(root(url) + "/version", headers=key).json()["version"])
        for path in ("/health", "/version", "/v1/models", "/v1/models/seka-demo", "/metrics"):
            answer = web.head(root(url) + path, headers=key)
            assert (answer.status_code, answer.content) == (200, b"")
        answer = web.head(url + "/completions", headers=key)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_request_ids(url, lines):
    given = web.get(url + "/models", headers={"x-request-id": "trace-7:a.b"})
    assert given.headers["x-request-id"] == "trace-7:a.b"
    for bad in ("a b", "x" * 129, '{"a"'):
        answer = web.get(url + "/models", headers={"x-request-id": bad})
        assert re.fullmatch(r"req-[0-9a-f]{24}", answer.headers["x-request-id"])
    wrong = web.post(url + "/chat/completions", json={}, headers={"x-request-id": "t"})
    assert wrong.headers["x-request-id"] == "t"
    client = OpenAI(base_url=url, api_key="none")
    answer = client.chat.completions.create(model="seka-demo", messages=MESSAGES, max_tokens=1)
    assert answer._request_id.startswith("req-")
    refused, answered = lines(2)
    assert (refused["request"], answered["request"], answered["answer"]) == ("t", answer._request_id, answer.id)


def test_a_line_for_each_request(post, lines, demo, caplog):
    post("/chat/completions", {"messages": MESSAGES, "seka": {"spans": [SPAN]}})
    post("/chat/completions", {"messages": MESSAGES, "seka": {"spans": [{**SPAN, "end": 600}]}})
    post("/nothing", {})
    good, bad, other = lines(3)
    assert good["highlights"] == [{**SPAN, "weight": 1.0}]
    assert (good["bank"], good["tokens_edited"], good["gain"]) == (demo.bank.digest, 1, 0.5)
    assert (good["status"], good["path"], good["rows"]) == (200, "/v1/chat/completions", 1)
    assert 0 <= good["wait"] <= good["first_token"] <= good["seconds"]
    assert good["finish_reason"] in (["stop"], ["length"])
    assert (bad["status"], bad["error"], bad["highlights"]) == (400, "SpanError", [])
    assert (other["status"], other["path"]) == (404, "other")
    assert SECRET not in caplog.text


def test_lines_as_json_and_as_text():
    def line(message, name="seka_rag.server"):
        record = logging.LogRecord(name, logging.WARNING, "", 0, message, (), None)
        record.created, record.msecs = 1.5, 500.0
        return record

    for record, rest in ((line('{"request": "r"}'), {"request": "r"}), (line("a\nb", "uvicorn"), {"message": "a\nb"})):
        written = Lines(as_json=True).format(record)
        assert "\n" not in written
        assert json.loads(written) == {"time": "1970-01-01T00:00:01.500Z", "level": "warning", **rest}
    assert Lines(as_json=False).format(line("x")) == "1970-01-01T00:00:01.500Z WARNING x"


def test_the_served_name(demo):
    with running(demo, served_name="house/rag-1") as url:
        client = OpenAI(base_url=url, api_key="none")
        assert [m.id for m in client.models.list()] == ["house/rag-1"]
        assert client.models.retrieve("house/rag-1").id == "house/rag-1"
        answer = client.chat.completions.create(model="house/rag-1", messages=MESSAGES, max_tokens=1)
        assert answer.model == "house/rag-1"
        wrong = web.post(url + "/chat/completions", json={"model": "seka-demo", "messages": MESSAGES})
        assert (wrong.status_code, "house/rag-1" in wrong.text) == (404, True)


def test_web_pages_of_given_origins_may_ask(demo):
    page, asked = "https://page.example", {"Access-Control-Request-Method": "POST"}
    with running(demo, api_key="k", cors_origins=(page,)) as url:
        before = web.options(url + "/completions", headers={"Origin": page, **asked})
        assert (before.status_code, before.headers["access-control-allow-origin"]) == (200, page)
        answer = web.get(url + "/models", headers={"Origin": page, "Authorization": "Bearer k"})
        assert answer.headers["access-control-allow-origin"] == page
        other = web.options(url + "/completions", headers={"Origin": "https://other.example", **asked})
        assert "access-control-allow-origin" not in other.headers
    with running(demo) as url:
        answer = web.get(url + "/models", headers={"Origin": page})
        assert "access-control-allow-origin" not in answer.headers


def test_whether_to_ask_again(post, demo, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError

    monkeypatch.setattr(demo.hf_model, "generate", fail)
    answer = post("/chat/completions", {"messages": MESSAGES})
    assert (answer.status_code, answer.headers["x-should-retry"]) == (500, "false")


async def test_a_server_that_ends_takes_nothing_new(demo):
    app = create_app(demo, ServerSettings())
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        body = {"prompt": "Alec", "max_tokens": 1}
        assert (await client.post("/v1/completions", json=body)).status_code == 200
        app.state.service.drain()
        refused = await client.post("/v1/completions", json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "BusyError")
        assert (refused.headers["retry-after"], refused.headers["x-should-retry"]) == ("1", "true")
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/healthz")).status_code == 200
    app.state.service.stop()


async def ask_all(url, bodies):
    async with httpx.AsyncClient(timeout=PATIENCE, verify=False) as client:
        return await asyncio.gather(*(client.post(url + "/chat/completions", json=body) for body in bodies))


async def test_thirty_two_clients_do_not_queue_one_behind_the_other(demo, gate):
    """Each has its own prompt, highlight and length; half of them stream."""
    names = ["Alec", "Maud", "Edna", "Astrid"]
    bodies, local = [], []
    for i in range(32):
        name, place = names[i % 4], ["Oslo", "Lyon", "Rome"][i % 3]
        text = f"{'Note. ' * (i % 5)}The home of {name} is in {place}. Where is the home of {name}?"
        start = text.index("The home")
        seka = {
            "spans": [{"message": 0, "start": start, "end": start + 24}],
            "steering": {"method": "Seka", "gain": 2.0},
        }
        length = 4 + i % 3
        bodies.append(
            {"messages": [{"role": "user", "content": text}], "max_tokens": length, "seka": seka, "stream": i % 2 == 1}
        )
        prompt = Prompt(text).mark(start, start + 24)
        local.append(demo.chat([{"role": "user", "content": prompt}], max_new_tokens=length, steering=Seka(gain=2.0)))
    with running(demo, max_concurrent=1) as url:
        asked = asyncio.ensure_future(ask_all(url, bodies))
        await until_true(lambda: at_work(url) == (1, 31))
        gate.set()
        answers = await asked
        seen = figures(url)
    for answer, body, wanted in zip(answers, bodies, local, strict=True):
        if body["stream"]:
            chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
            text = "".join(choice["delta"].get("content") or "" for c in chunks for choice in c["choices"])
            report = chunks[-1]["seka"]
        else:
            text, report = answer.json()["choices"][0]["message"]["content"], answer.json()["seka"]
        report.pop("highlights")
        assert (text, report) == (wanted.text, wanted.report.as_dict())
    assert len({g.text for g in local}) > 2
    assert seen[("seka_batch_rows_count",)] == 32
    assert seen[("seka_batch_rows_sum",)] / 32 > 4  # rows of the batch in which a request ran, on average


async def test_with_one_row_a_batch_each_runs_alone(demo):
    body = {"messages": MESSAGES, "max_tokens": 2}
    with running(demo, max_concurrent=1, max_batch=1) as url:
        answers = await ask_all(url, [body] * 5)
        assert {a.status_code for a in answers} == {200}
        assert figures(url)[("seka_batch_rows_sum",)] == 5


def test_sampling_does_not_hold_the_slots_of_others(demo, gate):
    """Draws come from one generator. While a sampling request runs, others that sample wait without a slot."""
    body = {"prompt": "Alec", "max_tokens": 3}
    with running(demo, max_concurrent=2) as url, ThreadPoolExecutor(3) as pool:
        sampled = [
            pool.submit(web.post, url + "/completions", json={**body, "temperature": 2, "seed": i}) for i in range(3)
        ]
        until(lambda: at_work(url) == (1, 2))
        assert web.post(url + "/completions", json=body).status_code == 200
        assert not any(answer.done() for answer in sampled)
        gate.set()
    assert {answer.result().status_code for answer in sampled} == {200}
