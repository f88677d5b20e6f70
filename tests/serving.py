"""A real server on loopback, in a thread, and what asks it."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import httpx
from patience import PATIENCE, until
from prometheus_client.parser import text_string_to_metric_families

from seka_rag.server import ServerSettings, create_app
from seka_rag.server.listening import uvicorn_server

#: Requests of ``httpx`` that wait as long as it takes; without certificates, whose reading takes longer than an answer.
web = SimpleNamespace(
    **{
        name: partial(getattr(httpx, name), timeout=PATIENCE, verify=False)
        for name in ("get", "head", "options", "post", "stream")
    }
)


class _Small:
    def connection_made(self, transport):
        transport.set_write_buffer_limits(high=self.buffer)
        super().connection_made(transport)


@contextmanager
def running(model, *, buffer=None, keep_alive=5, **settings):
    """Yields the base URL, as clients of OpenAI take it.

    Args:
        buffer: bytes of each connection's send buffers, the system's and ours, so that a short answer fills them.
        keep_alive: seconds after which an idle connection is closed.
    """
    given = ServerSettings(**{"shutdown_timeout": 5, **settings})
    app = create_app(model, given)
    server = uvicorn_server(app, given, host="127.0.0.1", port=0, timeout_keep_alive=keep_alive)
    place = socket.create_server(("127.0.0.1", 0))
    if buffer is not None:
        server.config.http = type("Small", (_Small, server.config.http), {"buffer": buffer})
        place.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    port = place.getsockname()[1]
    thread = threading.Thread(target=server.run, args=([place],), daemon=True)
    thread.start()
    until(lambda: server.started or not thread.is_alive())
    assert thread.is_alive()
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


def root(url):
    return url.removesuffix("/v1")


def figures(url):
    """What the server counts, by name and labels."""
    text = web.get(root(url) + "/metrics").text
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "le" not in sample.labels
    }


def at_work(url):
    """How many requests are generated, and how many wait."""
    seen = figures(url)
    return seen[("seka_running_requests",)], seen[("seka_waiting_requests",)]


def answered(url, path="/v1/completions"):
    """How many requests of a path have ended, one way or another."""
    return sum(n for (name, *labels), n in figures(url).items() if name == "seka_requests_total" and path in labels)
