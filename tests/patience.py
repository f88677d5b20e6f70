"""Waiting in tests. How fast a machine is, and what else it does, is never part of what a test says.

A test waits for what must happen, never a number of seconds in which it should have happened, and bounds work by counts (of
passes, calls, tokens). What would go on for ever is ended by the time limit of the suite (``timeout`` in pyproject.toml).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

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
