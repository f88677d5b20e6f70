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

import pytest
from patience import PATIENCE, until
from serving import answered, at_work, root, running, web

from seka_rag.server.listening import TimedProtocol

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])
LONG = {"prompt": "Alec", "max_tokens": 2000, "repetition_penalty": 5.0}


def address(url):
    host, port = re.match(r"http://(.*):(\d+)", url).groups()
    return host, int(port)


@contextmanager
def connected(url, *, buffer=None):
    with socket.socket() as client:
        if buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        client.settimeout(PATIENCE)
        client.connect(address(url))
        yield client


def request(body, length=None):
    data = json.dumps(body).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return head.encode() + f"Content-Length: {length or len(data)}\r\n\r\n".encode() + data


def rest(client):
    """What the server sends before it closes the connection, which it does."""
    received = b""
    with suppress(ConnectionResetError):
        while data := client.recv(65536):
            received += data
    return received


def test_streams_that_are_never_read_give_their_slots_back(demo, endless):
    """Their answers are larger than the buffers of both sockets."""
    limits = {"max_concurrent": 2, "timeout": 600, "write_timeout": 600, "max_batch": 1}
    with running(demo, buffer=4096, **limits) as url, ExitStack() as stack:
        for _ in range(2):
            client = stack.enter_context(connected(url, buffer=2048))
            client.sendall(request({**LONG, "max_tokens": 300, "stream": True}))
        until(lambda: at_work(url) == (2, 0))
        answer = web.post(url + "/completions", json={"prompt": "Alec", "max_tokens": 1})
        assert answer.status_code == 200, answer.text
        assert answered(url) == 1  # the two are still being sent


def test_a_client_that_does_not_read_is_cut_off(demo, endless):
    with running(demo, buffer=4096, write_timeout=0.5) as url, connected(url, buffer=2048) as client:
        client.sendall(request({**LONG, "max_tokens": 300, "stream": True}))
        until(lambda: answered(url) == 1)
        received = rest(client)  # what was in the buffers, and no end
        assert b"data: " in received
        assert b"[DONE]" not in received


def test_a_client_that_reads_slowly_is_served(demo, endless, monkeypatch):
    """The time for it begins anew whenever it has read what was there."""
    timers = []
    pause = TimedProtocol.pause_writing
    monkeypatch.setattr(TimedProtocol, "pause_writing", lambda self: (pause(self), timers.append(self._writing)))
    with running(demo, buffer=4096, write_timeout=600) as url, connected(url, buffer=2048) as client:
        client.sendall(request({**LONG, "max_tokens": 200, "stream": True}))
        until(lambda: timers)  # nothing is read until the server cannot write on
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        received = b""
        while b"[DONE]" not in received:
            received += client.recv(4096)
            assert received
    assert all(timer.cancelled() for timer in timers)


@pytest.mark.parametrize("sent", [b"", b"POST /v1/comp", b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX: "])
def test_a_head_that_does_not_arrive(demo, sent):
    with running(demo, read_timeout=0.5) as url:
        began = time.monotonic()
        with connected(url) as client:
            client.sendall(sent)
            rest(client)
        assert time.monotonic() - began > 0.5


def test_a_body_that_does_not_arrive(demo):
    with running(demo, read_timeout=0.5, keep_alive=1) as url, connected(url) as client:
        client.sendall(request({"prompt": "x"}, length=500))
        received = rest(client)
        assert received.startswith(b"HTTP/1.1 408")
        assert b"did not arrive within 0.5 seconds" in received


def test_a_client_that_leaves_while_it_sends(demo, caplog):
    caplog.set_level("INFO", "seka_rag.server")
    with running(demo) as url:
        with connected(url) as client:
            client.sendall(request({"prompt": "x"}, length=500))
        until(lambda: "ClientGone" in caplog.text)
    assert '"status": 499' in caplog.text
    assert "InternalError" not in caplog.text


def test_a_head_in_drops(demo):
    """One byte after another, each well within the time, does not prolong it."""
    with running(demo, read_timeout=0.5) as url, connected(url) as client:
        with pytest.raises(OSError):
            for byte in b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * 400:
                client.sendall(bytes([byte]))
                time.sleep(0.05)


def test_an_idle_connection_is_used_again_and_then_closed(demo):
    def ask(client):
        client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        while not received.endswith(b"}"):
            received += client.recv(4096)
        assert received.startswith(b"HTTP/1.1 200")

    with running(demo, read_timeout=0.1, keep_alive=600) as url, connected(url) as client:
        ask(client)
        time.sleep(1.5)  # longer than a request may take
        ask(client)
    with running(demo, keep_alive=1) as url, connected(url) as client:
        ask(client)
        assert rest(client) == b""


def test_more_connections_than_allowed(demo):
    with running(demo, max_connections=3) as url, ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(connected(url))
        with connected(url) as client:
            client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 503")


class TestEnd:
    def test_requests_end_and_new_ones_are_refused(self, demo, gate):
        """In the server's process: what runs is answered, though the server is about to end."""
        answers = []
        with running(demo, max_concurrent=1, shutdown_timeout=600) as url:
            assert web.get(root(url) + "/readyz").json() == {"status": "ready"}
            body = {"prompt": "Alec", "max_tokens": 4}
            thread = threading.Thread(target=lambda: answers.append(web.post(url + "/completions", json=body)))
            thread.start()
            until(lambda: at_work(url) == (1, 0))
            threading.Timer(0.2, gate.set).start()  # after the end has begun, as a rule
        thread.join()
        assert answers[0].status_code == 200

    def test_what_does_not_end_in_time_is_told_so(self, demo, gate, endless):
        answers = []
        gate.after, gate.all = 20, True

        def ask(url, stream):
            answers.append(web.post(url + "/completions", json={**LONG, "stream": stream}))

        with running(demo, max_concurrent=2, max_batch=1, shutdown_timeout=0.1) as url:
            threads = [threading.Thread(target=ask, args=(url, stream)) for stream in (True, False, False)]
            for thread, at in zip(threads, [(1, 0), (2, 0), (2, 1)], strict=True):
                thread.start()
                until(lambda at=at: at_work(url) == at)
            until(lambda: gate.there == 2)
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

    @pytest.mark.slow
    @pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGINT, signal.SIGINT], [signal.SIGTERM] * 2])
    def test_the_command(self, command, signals):
        """At one signal it answers what it has begun, at two it does not."""
        started, url = command
        with connected(url) as client, connected(url) as other:
            schema = {"type": "json_schema", "json_schema": {"schema": {"type": "string", "minLength": 5000}}}
            body = {"prompt": "Alec", "max_tokens": 400, "stream": True, "response_format": schema}
            client.sendall(request(body if len(signals) == 1 else {**body, "max_tokens": 1500}))
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
            other.sendall(b"POST /v1/comp")  # and one that will never be complete
            for one in signals:
                started.send_signal(one)
                rest(other)  # it is closed: the signal has arrived
            received = rest(client)
            _, errors = started.communicate(timeout=PATIENCE)
            assert "Traceback" not in errors
            assert started.returncode in (0, -signal.SIGTERM)
            assert (b"[DONE]" in received) == (len(signals) == 1)
