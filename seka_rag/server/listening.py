"""uvicorn for our application: clients that are slow, silent or do not read are let go, and it ends in a known time."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from seka_rag.server.settings import ServerSettings

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from seka_rag.server.service import Service

_BACKSTOP = 1.0  # seconds that the application has to answer by itself before a connection is cut


class TimedProtocol(H11Protocol):
    """HTTP/1.1 with a time for a request to arrive and for its answer to be read on.

    A connection on which neither happens is cut at once: closing it in order would wait for the client to read.
    """

    read_timeout: float
    write_timeout: float
    _reading: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # of TCP, as all of a server's
        super().connection_made(transport)
        self._watch_reading()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_reading()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_reading()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing = self.loop.call_later(self.write_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        _cancel(self._writing)
        self._writing = None

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        _cancel(self._reading)
        _cancel(self._writing)

    def _watch_reading(self) -> None:
        """The time runs while a request has begun to arrive and is not complete; uvicorn watches idle connections."""
        idle = self.timeout_keep_alive_task is not None
        waiting = self.conn.their_state in (h11.IDLE, h11.SEND_BODY) and not idle
        if not waiting or self.transport.is_closing():
            _cancel(self._reading)
            self._reading = None
        elif self._reading is None:
            self._reading = self.loop.call_later(self.read_timeout + _BACKSTOP, self.transport.abort)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


class Server(uvicorn.Server):
    """Ends in order at the first signal, within ``shutdown_timeout``, and at once at the second."""

    def __init__(self, config: uvicorn.Config, service: Service, seconds: float) -> None:
        super().__init__(config)
        self.service, self.seconds = service, seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and sig == signal.SIGTERM:  # uvicorn counts only SIGINT
            self.force_exit = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.service.drain()
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await self._until(self._nothing_left, self.seconds)
        self.service.stop()  # whoever still waits is told so
        await self._until(self._nothing_left, _BACKSTOP)
        for connection in list(self.server_state.connections):
            connection.transport.abort()  # who does not read it
        await self._until(lambda: not self.server_state.tasks and self.service.idle, _BACKSTOP, forced=False)
        await super().shutdown(sockets)

    def _nothing_left(self) -> bool:
        return not self.server_state.connections and not self.server_state.tasks

    async def _until(self, done: Callable[[], bool], seconds: float, *, forced: bool = True) -> None:
        end = time.monotonic() + seconds
        while not done() and time.monotonic() < end and not (forced and self.force_exit):
            await asyncio.sleep(0.02)


def uvicorn_server(app: Starlette, settings: ServerSettings, **options: Any) -> Server:
    """A server of the application that ``create_app`` made.

    Args:
        options: of ``uvicorn.Config``, such as ``host`` and ``port``.
    """
    protocol = type(
        "Protocol",
        (TimedProtocol,),
        {"read_timeout": settings.read_timeout, "write_timeout": settings.write_timeout},
    )
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=settings.max_connections,
        **options,
    )
    return Server(config, app.state.service, settings.shutdown_timeout)
