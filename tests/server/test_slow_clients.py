"""Clients that send slowly, do not read or stay silent hold nothing for long, and the server ends in a known time."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress

import httpx
import pytest
from serving import running

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])
LONG = {"prompt": "Alec", "max_tokens": 2000, "repetition_penalty": 5.0}


@pytest.fixture
def endless(demo, monkeypatch):
    """The demo's model without an end token."""
    monkeypatch.setattr(demo.hf_model.generation_config, "eos_token_id", 10**6)


def address(url):
    host, port = re.match(r"http://(.*):(\d+)", url).groups()
    return host, int(port)


@contextmanager
def connected(url, *, buffer=None):
    with socket.socket() as client:
        if buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        client.settimeout(20)
        client.connect(address(url))
        yield client


def request(body, length=None):
    data = json.dumps(body).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return head.encode() + f"Content-Length: {length or len(data)}\r\n\r\n".encode() + data


def closed_after(client):
    """Seconds until the server closes the connection, and what it sent before."""
    began, received = time.monotonic(), b""
    with suppress(ConnectionResetError):
        while data := client.recv(65536):
            received += data
    return time.monotonic() - began, received


def test_streams_that_are_never_read_give_their_slots_back(demo, endless):
    """Their answers are larger than the buffers of both sockets."""
    limits = {"max_concurrent": 2, "max_queue": 8, "timeout": 6, "write_timeout": 60, "max_batch": 1}
    with running(demo, buffer=4096, **limits) as url, ExitStack() as stack:
        for _ in range(2):
            client = stack.enter_context(connected(url, buffer=2048))
            client.sendall(request({**LONG, "stream": True}))
        time.sleep(0.3)
        began = time.monotonic()
        answer = httpx.post(url + "/completions", json={"prompt": "Alec", "max_tokens": 1}, timeout=30)
        assert answer.status_code == 200, answer.text
        assert time.monotonic() - began < 6


def test_a_client_that_does_not_read_is_cut_off(demo, endless):
    with running(demo, buffer=4096, write_timeout=0.5) as url, connected(url, buffer=2048) as client:
        client.sendall(request({**LONG, "max_tokens": 1000, "stream": True}))
        figures = url.removesuffix("/v1") + "/metrics"
        time.sleep(0.5)
        while "seka_running_requests 0.0" not in httpx.get(figures).text:
            time.sleep(0.1)
        time.sleep(0.7)
        _, received = closed_after(client)  # what was in the buffers, and no end
        assert b"data: " in received
        assert b"[DONE]" not in received


def test_a_client_that_reads_slowly_is_served(demo, endless):
    with running(demo, buffer=4096, write_timeout=2) as url, connected(url, buffer=2048) as client:
        client.sendall(request({**LONG, "max_tokens": 300, "stream": True}))
        received = b""
        while b"[DONE]" not in received and (data := client.recv(4096)):
            received += data
            time.sleep(0.01)
        assert b"[DONE]" in received


@pytest.mark.parametrize("sent", [b"", b"POST /v1/comp", b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX: "])
def test_a_head_that_does_not_arrive(demo, sent):
    with running(demo, read_timeout=0.5) as url, connected(url) as client:
        client.sendall(sent)
        seconds, _ = closed_after(client)
        assert 0.4 < seconds < 4


def test_a_body_that_does_not_arrive(demo):
    with running(demo, read_timeout=0.5) as url, connected(url) as client:
        client.sendall(request({"prompt": "x"}, length=500))
        seconds, received = closed_after(client)
        assert received.startswith(b"HTTP/1.1 408")
        assert b"did not arrive within 0.5 seconds" in received
        assert seconds < 10


def test_a_client_that_leaves_while_it_sends(demo, caplog):
    caplog.set_level("INFO", "seka_rag.server")
    with running(demo) as url:
        with connected(url) as client:
            client.sendall(request({"prompt": "x"}, length=500))
            time.sleep(0.2)
        end = time.monotonic() + 10
        while "ClientGone" not in caplog.text and time.monotonic() < end:
            time.sleep(0.01)
    assert '"status": 499' in caplog.text
    assert "InternalError" not in caplog.text


def test_a_head_in_drops(demo):
    """One byte after another, each well within the time, does not prolong it."""
    with running(demo, read_timeout=1) as url, connected(url) as client:
        began = time.monotonic()
        with pytest.raises(OSError):
            for byte in b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * 100:
                client.sendall(bytes([byte]))
                time.sleep(0.05)
                assert time.monotonic() - began < 10


def test_an_idle_connection_is_used_again_and_then_closed(demo):
    with running(demo, read_timeout=0.5) as url, connected(url) as client:
        for _ in range(2):
            client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            received = b""
            while not received.endswith(b"}"):
                received += client.recv(4096)
            assert received.startswith(b"HTTP/1.1 200")
            time.sleep(1.8)  # longer than a request may take, shorter than a connection may be idle
        assert closed_after(client)[0] < 8


def test_more_connections_than_allowed(demo):
    with running(demo, max_connections=3) as url, ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(connected(url))
        time.sleep(0.1)
        with connected(url) as client:
            client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 503")


class TestEnd:
    def test_requests_end_and_new_ones_are_refused(self, demo, endless):
        """In the server's process: what runs is answered, what comes on an open connection is told to go elsewhere."""
        answers = []
        with running(demo, max_concurrent=1, shutdown_timeout=30) as url, httpx.Client(timeout=30) as client:
            assert client.get(url.removesuffix("/v1") + "/readyz").json() == {"status": "ready"}
            body = {**LONG, "max_tokens": 400}
            thread = threading.Thread(
                target=lambda: answers.append(httpx.post(url + "/completions", json=body, timeout=30))
            )
            thread.start()
            time.sleep(0.5)
        thread.join()
        assert answers[0].status_code == 200

    def test_what_does_not_end_in_time_is_told_so(self, demo, endless):
        answers = []

        def ask(url, stream):
            answers.append(httpx.post(url + "/completions", json={**LONG, "stream": stream}, timeout=30))

        with running(demo, max_concurrent=2, max_batch=1, shutdown_timeout=0.5) as url:
            threads = [threading.Thread(target=ask, args=(url, stream)) for stream in (True, False, False)]
            threads[0].start()
            while "seka_running_requests 1.0" not in httpx.get(url.removesuffix("/v1") + "/metrics").text:
                time.sleep(0.02)
            for thread in threads[1:]:
                thread.start()
            time.sleep(0.7)
            began = time.monotonic()
        assert time.monotonic() - began < 5
        for thread in threads:
            thread.join()
        assert sorted(a.status_code for a in answers) == [200, 503, 503]  # the stream had begun
        assert all("the server ended before the answer was ready" in a.text for a in answers)
        assert {a.headers.get("x-should-retry") for a in answers} == {"true", None}

    @pytest.fixture
    def command(self):
        command = [sys.executable, "-c", "from seka_rag.cli import app; app()", "serve", "seka-demo", "--port", "0"]
        environment = {**os.environ, "COLUMNS": "200"}
        environment.pop("SEKA_API_KEY", None)
        started = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            yield started, started.stdout.readline().split()[-1]
        finally:
            started.kill()

    @pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGINT, signal.SIGINT], [signal.SIGTERM] * 2])
    def test_the_command(self, command, signals):
        started, url = command
        with connected(url) as client, connected(url) as other:
            schema = {"type": "json_schema", "json_schema": {"schema": {"type": "string", "minLength": 5000}}}
            body = {"prompt": "Alec", "max_tokens": 1500, "stream": True, "response_format": schema}
            client.sendall(request(body))
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
            other.sendall(b"POST /v1/comp")  # and one that will never be complete
            began = time.monotonic()
            for one in signals:
                started.send_signal(one)
                time.sleep(0.3)
            _, errors = started.communicate(timeout=60)
            assert "Traceback" not in errors
            assert started.returncode in (0, -signal.SIGTERM)
            if len(signals) > 1:
                assert time.monotonic() - began < 8
            else:
                assert b"[DONE]" in closed_after(client)[1]
