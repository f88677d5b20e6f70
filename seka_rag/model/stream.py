"""Pieces of text from a worker thread, for ``for`` and for ``async for``; a failing worker raises, never hangs."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_END = object()


class TextStream(Generic[T]):
    """Iterate once, by ``for`` or by ``async for``.

    Args:
        work: called in a thread as ``work(emit, cancel)``: it emits pieces, looks at ``cancel`` and returns the result.
    """

    def __init__(self, work: Callable[[Callable[[str], None], threading.Event], T]) -> None:
        self._work = work
        self._cancel = threading.Event()
        self._thread: threading.Thread | None = None
        self._result: T | None = None
        self._error: BaseException | None = None
        self._pieces: queue.SimpleQueue[Any] = queue.SimpleQueue()

    @property
    def result(self) -> T:
        """What the work returned; reading it before the last piece waits for the end."""
        if self._thread is None:
            for _ in self:
                pass
        assert self._thread is not None
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # without an error there is one

    def close(self) -> None:
        """End the work; returns when nothing of it runs any more."""
        self._cancel.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _start(self, emit: Callable[[Any], None]) -> None:
        if self._thread is not None:
            raise RuntimeError("a stream can be read only once")

        def run() -> None:
            try:
                self._result = self._work(emit, self._cancel)
            except BaseException as error:
                self._error = error
            emit(_END)

        self._thread = threading.Thread(target=run, daemon=True, name="seka-stream")
        self._thread.start()

    def __iter__(self) -> Iterator[str]:
        self._start(self._pieces.put)
        try:
            while (piece := self._pieces.get()) is not _END:
                yield piece
        finally:
            self.close()
        if self._error is not None:
            raise self._error

    async def __aiter__(self) -> AsyncIterator[str]:
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[Any]()

        def emit(piece: Any) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        self._start(emit)
        try:
            while (piece := await pieces.get()) is not _END:
                yield piece
        finally:
            self._cancel.set()  # not joined: that would block the loop
        if self._error is not None:
            raise self._error

    def __enter__(self) -> TextStream[T]:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
