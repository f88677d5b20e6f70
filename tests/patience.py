"""Waiting in tests. How fast a machine is, and what else it does, is never part of what a test says.

A test waits for what must happen, never a number of seconds in which it should have happened, and bounds work by counts (of
passes, calls, tokens). What would go on for ever is ended by the time limit of the suite (``timeout`` in pyproject.toml).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

#: Seconds after which what has not happened will not: far more than a busy machine needs, and less than the suite's limit.
PATIENCE = 120.0
_PAUSE = 0.01


def until(done: Callable[[], object]) -> None:
    """Come back when it is true."""
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, f"not within {PATIENCE:g} seconds"
        time.sleep(_PAUSE)


async def until_true(done: Callable[[], object]) -> None:
    """As ``until``, while other tasks go on."""
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, f"not within {PATIENCE:g} seconds"
        await asyncio.sleep(_PAUSE)


async def check_loop_is_free(engine: Any, calls: Sequence[Awaitable[object]], monkeypatch: Any) -> None:
    """While the engine generates for each call, the event loop can do something else: it alone lets the engine go on."""
    run, there, go_on, in_time = engine._run, threading.Event(), threading.Event(), list[bool]()

    def waiting(call: object) -> object:
        there.set()
        in_time.append(go_on.wait(PATIENCE))
        return run(call)

    monkeypatch.setattr(engine, "_run", waiting)
    for call in calls:
        there.clear(), go_on.clear()
        task = asyncio.ensure_future(call)
        await until_true(there.is_set)
        go_on.set()
        await task
    assert in_time == [True] * len(calls)
