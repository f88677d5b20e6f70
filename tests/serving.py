"""A real server on loopback, in a thread."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

import uvicorn

from seka_rag.server import ServerSettings, create_app


@contextmanager
def running(model, **settings):
    """Yields the base URL, as clients of OpenAI take it."""
    app = create_app(model, ServerSettings(**settings))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()
