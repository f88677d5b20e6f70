"""Admission of requests: a number of generations run at once, a number wait, and each ends when its client has gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

from seka_rag.errors import BusyError, GenerationTimeoutError
from seka_rag.model.generation import Generation
from seka_rag.model.stream import TextStream


class Admission:
    def __init__(self, running: int, waiting: int, timeout: float) -> None:
        self._slots, self._capacity, self._timeout = asyncio.Semaphore(running), running + waiting, timeout
        self._admitted = 0  # running or waiting
        self._ending: set[asyncio.Task[None]] = set()

    async def pieces(self, start: Callable[[float], TextStream[Generation]]) -> AsyncIterator[str | Generation]:
        """Pieces of text, at last the Generation. Leaving the loop ends the generation.

        Args:
            start: called in a thread when this request has a slot, with the seconds that are left.

        Raises:
            BusyError: too many wait.
            GenerationTimeoutError: no slot, or no end, within the time.
        """
        if self._admitted >= self._capacity:
            raise BusyError(f"{self._admitted} requests run or wait already: try again later")
        end = time.monotonic() + self._timeout
        self._admitted += 1
        try:
            await asyncio.wait_for(self._slots.acquire(), self._timeout)
        except BaseException as error:
            self._admitted -= 1
            if isinstance(error, asyncio.TimeoutError):
                raise GenerationTimeoutError(f"the request waited {self._timeout:g} seconds for a slot") from None
            raise
        stream: TextStream[Generation] | None = None
        try:
            stream = await asyncio.to_thread(start, max(end - time.monotonic(), 0.001))
            async with aclosing(aiter(stream)) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    yield piece
            yield stream.result
        finally:  # the slot is freed when the thread has ended; a client that has gone does not wait for it
            task = asyncio.ensure_future(self._free(stream))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _free(self, stream: TextStream[Generation] | None) -> None:
        try:
            if stream is not None:
                await asyncio.to_thread(stream.close)
        finally:
            self._admitted -= 1
            self._slots.release()
