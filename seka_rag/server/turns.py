"""Whose turn it is: so many generations at once, so many that wait, and each ends when nobody wants it any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

from seka_rag.errors import BusyError, GenerationTimeoutError
from seka_rag.model.generation import Generation
from seka_rag.model.stream import TextStream


class Turns:
    def __init__(self, running: int, waiting: int, timeout: float) -> None:
        self._slots, self._most, self._timeout = asyncio.Semaphore(running), running + waiting, timeout
        self._here = 0  # running or waiting
        self._ending: set[asyncio.Task[None]] = set()

    async def pieces(self, start: Callable[[float], TextStream[Generation]]) -> AsyncIterator[str | Generation]:
        """Pieces of text, at last the Generation. Leaving the loop ends the generation.

        Args:
            start: called in a thread when it is this request's turn, with the seconds that are left.

        Raises:
            BusyError: too many wait.
            GenerationTimeoutError: no turn, or no end, within the time.
        """
        if self._here >= self._most:
            raise BusyError(f"{self._here} requests run or wait already: try again later")
        end = time.monotonic() + self._timeout
        self._here += 1
        try:
            await asyncio.wait_for(self._slots.acquire(), self._timeout)
        except BaseException as error:
            self._here -= 1
            if isinstance(error, asyncio.TimeoutError):
                raise GenerationTimeoutError(f"the request waited {self._timeout:g} seconds for its turn") from None
            raise
        stream: TextStream[Generation] | None = None
        try:
            stream = await asyncio.to_thread(start, max(end - time.monotonic(), 0.001))
            async with aclosing(aiter(stream)) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    yield piece
            yield stream.result
        finally:  # the slot is free when the thread has really ended; whoever left does not wait for it
            task = asyncio.ensure_future(self._free(stream))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _free(self, stream: TextStream[Generation] | None) -> None:
        try:
            if stream is not None:
                await asyncio.to_thread(stream.close)
        finally:
            self._here -= 1
            self._slots.release()
