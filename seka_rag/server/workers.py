"""Threads for work that takes time and is no generation: reading bodies, templates, tokens. The event loop stays free."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from seka_rag.errors import BusyError, GenerationTimeoutError
from seka_rag.server.errors import Unavailable

T = TypeVar("T")


class Workers:
    """A number of threads, and a number of tasks that may wait for one of them."""

    def __init__(self, threads: int, waiting: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "seka-prepare")
        self._capacity = threads + waiting
        self.pending = 0
        self.closed = False

    def check(self) -> None:
        """Raise where new work would be refused.

        Raises:
            BusyError: too many tasks wait.
            Unavailable: the server is about to end.
        """
        if self.closed:
            raise Unavailable("the server is about to end: ask another one")
        if self.pending >= self._capacity:
            raise BusyError(f"{self.pending} requests are in work already: try again later")

    async def run(self, work: Callable[[], T], deadline: float) -> T:
        """The result of the work.

        Args:
            deadline: time (``time.monotonic``) at which it is no longer waited for. What has begun by then runs to its end
                in its thread, for which the limits of a request care.

        Raises:
            BusyError: too many tasks wait.
            GenerationTimeoutError: not done in time.
        """
        self.check()
        self.pending += 1
        task = self._pool.submit(work)
        loop = asyncio.get_running_loop()
        task.add_done_callback(lambda _: loop.is_closed() or loop.call_soon_threadsafe(self._ended))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(task), max(0.0, deadline - time.monotonic()))
        except asyncio.CancelledError:
            if self.closed and task.cancelled():  # it had not begun when the server ended
                raise Unavailable("the server ended before the request was worked on") from None
            raise
        except asyncio.TimeoutError:
            raise GenerationTimeoutError("the request was not worked through in time; ask for less") from None

    def close(self) -> None:
        """Let the threads end; what waits for one of them is left out."""
        self.closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ended(self) -> None:
        self.pending -= 1
