"""Requests to one server: retried where it was not reached or is busy, and its errors raised as they would be here."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import httpx
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential,
)

from seka_rag.errors import BusyError, GenerationTimeoutError, RemoteError, SekaError
from seka_rag.server.client.wire import piece_of, read_error
from seka_rag.server.settings import clean_key

_EXPONENTIAL = wait_exponential(multiplier=0.2, max=5)
_LONGEST_WAIT = 30.0  # seconds between two tries, whatever a server says


#: Of a stream, each as it was sent.
Chunks: TypeAlias = list[dict[str, Any]]


class _NotReachedError(RemoteError):
    """No connection: the server has seen nothing of the request."""


class Server:
    """Each request has a connection of its own, so one object serves all threads and event loops."""

    def __init__(self, base_url: str, api_key: str | None, timeout: float, max_retries: int) -> None:
        self.url = base_url.rstrip("/").removesuffix("/v1")
        self.timeout = timeout
        self._headers = (
            {} if api_key is None else {"Authorization": b"Bearer " + clean_key(api_key, "api_key").encode()}
        )
        self._ssl = httpx.create_ssl_context()
        self._retrying: dict[str, Any] = {
            "retry": retry_if_exception_type((_NotReachedError, BusyError)),
            "stop": stop_after_attempt(max_retries + 1),
            "wait": _wait,
            "reraise": True,
        }

    def send(self, path: str, body: Mapping[str, object] | None, timeout: float | None = None) -> dict[str, Any]:
        """The answer to a POST, or without a body to a GET."""

        def once() -> dict[str, Any]:
            with self._failing(path, timeout), httpx.Client(**self._options(timeout)) as client:
                return self._read(path, client.request("GET" if body is None else "POST", self.url + path, json=body))

        return Retrying(**self._retrying)(once)

    async def asend(self, path: str, body: Mapping[str, object] | None, timeout: float | None = None) -> dict[str, Any]:
        """``send`` without blocking; cancelling closes the connection, which ends the generation."""

        async def once() -> dict[str, Any]:
            with self._failing(path, timeout):
                async with httpx.AsyncClient(**self._options(timeout)) as client:
                    method = "GET" if body is None else "POST"
                    return self._read(path, await client.request(method, self.url + path, json=body))

        return await AsyncRetrying(**self._retrying)(once)

    def stream(
        self,
        path: str,
        body: Mapping[str, object],
        timeout: float | None,
        emit: Callable[[str], None],
        cancel: threading.Event,
    ) -> Chunks:
        """All chunks of a stream; text is emitted as it comes. Runs in a thread; ``cancel`` closes the connection."""
        return asyncio.run(self._watched(partial(self._chunks, path, body, timeout, emit), cancel))

    async def _watched(self, once: Callable[[], Awaitable[Chunks]], cancel: threading.Event) -> Chunks:
        work: asyncio.Future[Chunks] = asyncio.ensure_future(AsyncRetrying(**self._retrying)(once))
        while not work.done():
            if cancel.is_set():
                work.cancel()
            await asyncio.wait({work}, timeout=0.02)
        return [] if work.cancelled() else work.result()

    async def _chunks(
        self, path: str, body: Mapping[str, object], timeout: float | None, emit: Callable[[str], None]
    ) -> Chunks:
        seconds = timeout or self.timeout
        end, chunks = time.monotonic() + seconds, Chunks()
        with self._failing(path, timeout):
            async with httpx.AsyncClient(**self._options(timeout)) as client:
                async with client.stream("POST", self.url + path, json=body) as response:
                    if response.status_code != 200:
                        await response.aread()
                        self._read(path, response)
                    async for line in response.aiter_lines():
                        if time.monotonic() > end:
                            raise GenerationTimeoutError(f"no answer of {self.url} within {seconds:g} seconds")
                        if line == "data: [DONE]":
                            return chunks
                        if line.startswith("data: "):
                            chunk = self._json(line.removeprefix("data: "))
                            if "error" in chunk:
                                raise read_error(500, chunk, url=self.url)
                            chunks.append(chunk)
                            if piece := piece_of(chunk):
                                emit(piece)
        raise RemoteError(f"the answer of {self.url} ended before it was complete")

    def _options(self, timeout: float | None) -> dict[str, Any]:
        limits = httpx.Timeout(timeout or self.timeout, connect=10.0)
        return {"headers": self._headers, "timeout": limits, "verify": self._ssl}

    def _read(self, path: str, response: httpx.Response) -> dict[str, Any]:
        try:
            body = response.json()
        except ValueError:
            body = None
        if response.status_code != 200:
            error = read_error(response.status_code, body, url=self.url + path)
            error.retry_after = _seconds(response.headers.get("retry-after"))  # type: ignore[attr-defined]  # for `_wait`
            raise error
        if not isinstance(body, dict):
            raise RemoteError(f"{self.url}{path} answered with something that is not JSON: is it a seka-rag server?")
        return body

    def _json(self, text: str) -> dict[str, Any]:
        try:
            chunk = json.loads(text)
        except ValueError:
            chunk = None
        if not isinstance(chunk, dict):
            raise RemoteError(f"{self.url} streamed something that is not JSON: is it a seka-rag server?")
        return chunk

    @contextmanager
    def _failing(self, path: str, timeout: float | None) -> Iterator[None]:
        try:
            yield
        except SekaError:
            raise
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise _NotReachedError(f"cannot reach {self.url}: {error}. Is the server running there?") from error
        except httpx.TimeoutException as error:
            raise GenerationTimeoutError(
                f"no answer of {self.url} within {timeout or self.timeout:g} seconds; raise timeout, or ask for less"
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RemoteError(f"the request to {self.url}{path} failed: {error or type(error).__name__}") from error


def _wait(state: RetryCallState) -> float:
    """Longer each time, and at least as long as the server said."""
    error = state.outcome.exception() if state.outcome is not None else None
    return max(_EXPONENTIAL(state), getattr(error, "retry_after", 0.0))


def _seconds(header: str | None) -> float:
    try:
        return min(max(float(header or 0), 0.0), _LONGEST_WAIT)
    except ValueError:
        return 0.0  # a date
