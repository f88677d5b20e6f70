"""Work beside the event loop: bounded in number and time, and it ends with the server."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from patience import PATIENCE, until_true

from seka_rag.errors import BusyError, GenerationTimeoutError
from seka_rag.server.errors import Unavailable
from seka_rag.server.workers import Workers


@pytest.fixture
def release():
    event = threading.Event()
    yield event
    event.set()


async def test_results_and_errors_of_the_work():
    workers = Workers(1, 1)
    assert await workers.run(lambda: 3, time.monotonic() + PATIENCE) == 3
    with pytest.raises(ZeroDivisionError):
        await workers.run(lambda: 1 / 0, time.monotonic() + PATIENCE)
    await until_true(lambda: workers.pending == 0)
    workers.close()


async def test_too_many_and_too_long(release):
    workers = Workers(1, 1)
    tasks = [asyncio.ensure_future(workers.run(release.wait, time.monotonic() + PATIENCE)) for _ in range(2)]
    await until_true(lambda: workers.pending == 2)
    with pytest.raises(BusyError, match="2 requests are in work already"):
        await workers.run(lambda: 1, time.monotonic() + PATIENCE)
    release.set()
    assert await asyncio.gather(*tasks) == [True, True]
    release.clear()
    with pytest.raises(GenerationTimeoutError, match="not worked through in time"):
        await workers.run(release.wait, time.monotonic() + 0.1)
    release.set()
    await until_true(lambda: workers.pending == 0)
    assert await workers.run(lambda: 2, time.monotonic() + PATIENCE) == 2
    workers.close()


async def test_the_end_of_the_server(release):
    workers = Workers(1, 2)
    running = asyncio.ensure_future(workers.run(release.wait, time.monotonic() + PATIENCE))
    await until_true(lambda: workers.pending == 1)
    waiting = asyncio.ensure_future(workers.run(lambda: 1, time.monotonic() + PATIENCE))
    await until_true(lambda: workers.pending == 2)
    workers.close()
    with pytest.raises(Unavailable, match="ended before"):
        await waiting
    with pytest.raises(Unavailable, match="about to end"):
        await workers.run(lambda: 1, time.monotonic() + PATIENCE)
    release.set()
    assert await running
