"""What surrounds every request: its id, its key, the size and time of its body, its line in the log and its figures."""

from __future__ import annotations

import asyncio
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from seka_rag.server.errors import BodyTooLarge, SlowRequest, Unavailable, error_response, kind_of
from seka_rag.server.exchange import Exchange, request_id
from seka_rag.server.service import Service

OPEN_PATHS = ("/health", "/healthz", "/readyz")


class RequestGuard:
    """ASGI middleware; it also answers unforeseen failures, without a traceback."""

    def __init__(self, app: ASGIApp, service: Service, routes: frozenset[str]) -> None:
        self.app, self.service, self.settings, self.routes = app, service, service.settings, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        route = scope["path"] if scope["path"] in self.routes else "other"
        exchange = Exchange(request_id(headers.get("x-request-id")), scope["method"], route)
        scope.setdefault("state", {})["exchange"] = exchange

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = exchange.id
            await send(message)

        try:
            if route not in OPEN_PATHS:
                self._check(exchange, headers)
            await self.app(scope, _Body(receive, self.settings.max_body, self.settings.read_timeout).receive, answer)
        except Exception as error:
            exchange.error = kind_of(error)
            if exchange.status:
                raise
            await error_response(error)(scope, receive, answer)
        finally:
            if route not in OPEN_PATHS:
                exchange.end()
                self.service.metrics.count(exchange)

    def _check(self, exchange: Exchange, headers: Headers) -> None:
        given: bytes = next((value for name, value in headers.raw if name == b"authorization"), b"")
        exchange.key = self.service.keys.name_of(given)
        if self.service.draining:
            raise Unavailable("the server is about to end: ask another one")
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or int(length) > self.settings.max_body:
            raise BodyTooLarge(self.settings.max_body)


class _Body:
    """Receives a body of limited size in limited time; what follows it may take any time."""

    def __init__(self, receive: Receive, limit: int, seconds: float) -> None:
        self._receive, self._limit, self._seconds = receive, limit, seconds
        self._end = time.monotonic() + seconds
        self._size, self._complete = 0, False

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.001, self._end - time.monotonic()))
        except asyncio.TimeoutError:
            raise SlowRequest(self._seconds) from None
        self._size += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._size > self._limit:
            raise BodyTooLarge(self._limit)
        return message
