"""The first check of every request: its key, and the size of its body."""

from __future__ import annotations

import hmac
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from seka_rag.errors import AccessError
from seka_rag.server.errors import BodyTooLarge, error_response
from seka_rag.server.settings import ServerSettings


class RequestGuard:
    """ASGI middleware; it also answers unforeseen failures, without a traceback."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == "/health":
            await self.app(scope, receive, send)
            return
        started, size, limit = False, 0, self.settings.max_body

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > limit:
                raise BodyTooLarge(limit)
            return message

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            headers = Headers(scope=scope)
            self._check_key(headers.get("authorization", ""))
            length = headers.get("content-length", "0")
            if not length.isdigit() or int(length) > limit:
                raise BodyTooLarge(limit)
            await self.app(scope, counted, noted)
        except Exception as error:
            if started:
                raise
            await error_response(error)(scope, receive, send)

    def _check_key(self, given: str) -> None:
        key: Any = self.settings.api_key
        if key is None:
            return
        scheme, _, value = given.partition(" ")
        same = hmac.compare_digest(value.strip().encode(), key.get_secret_value().encode())
        if scheme.lower() != "bearer" or not same:
            raise AccessError("this server wants its key, as the header Authorization: Bearer KEY")
