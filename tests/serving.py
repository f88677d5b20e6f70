"""A real server on loopback, in a thread."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager

from seka_rag.server import ServerSettings, create_app
from seka_rag.server.listening import uvicorn_server


@contextmanager
def running(model, *, buffer=None, **settings):
    """Yields the base URL, as clients of OpenAI take it. ``buffer``: bytes of each connection's send buffer."""
    given = ServerSettings(**{"shutdown_timeout": 5, **settings})
    server = uvicorn_server(create_app(model, given), given, host="127.0.0.1", port=0)
    place = socket.create_server(("127.0.0.1", 0))
    if buffer is not None:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    port = place.getsockname()[1]
    thread = threading.Thread(target=server.run, args=([place],), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()
