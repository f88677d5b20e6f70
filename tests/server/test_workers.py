"""Work beside the event loop: bounded in number and time, and it ends with the server."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from seka_rag.errors import BusyError, GenerationTimeoutError
from seka_rag.server.errors import Unavailable
from seka_rag.server.workers import Workers


@pytest.fixture
def release():
    event = threading.Event()
    yield event
    event.set()


async def started(workers, count):
    while workers.pending < count:
        await asyncio.sleep(0.001)


async def test_results_and_errors_of_the_work():
    workers = Workers(1, 1)
    assert await workers.run(lambda: 3, time.monotonic() + 10) == 3
    with pytest.raises(ZeroDivisionError):
        await workers.run(lambda: 1 / 0, time.monotonic() + 10)
    await asyncio.sleep(0.05)
    assert workers.pending == 0
    workers.close()


async def test_too_many_and_too_long(release):
    workers = Workers(1, 1)
    tasks = [asyncio.ensure_future(workers.run(release.wait, time.monotonic() + 0.3)) for _ in range(2)]
    await started(workers, 2)
    with pytest.raises(BusyError, match="2 requests are being read already"):
        await workers.run(lambda: 1, time.monotonic() + 10)
    for task in tasks:
        with pytest.raises(GenerationTimeoutError, match="not read and tokenized in time"):
            await task
    release.set()
    assert await asyncio.wait_for(_when_free(workers), 10) == 2
    workers.close()


async def _when_free(workers):
    while workers.pending:
        await asyncio.sleep(0.01)
    return await workers.run(lambda: 2, time.monotonic() + 10)


async def test_the_end_of_the_server(release):
    workers = Workers(1, 2)
    running = asyncio.ensure_future(workers.run(release.wait, time.monotonic() + 10))
    await started(workers, 1)
    waiting = asyncio.ensure_future(workers.run(lambda: 1, time.monotonic() + 10))
    await started(workers, 2)
    workers.close()
    with pytest.raises(Unavailable, match="ended before"):
        await waiting
    with pytest.raises(Unavailable, match="about to end"):
        await workers.run(lambda: 1, time.monotonic() + 10)
    release.set()
    assert await running
