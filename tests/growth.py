"""How the work of a computation grows with its input, counted instead of timed."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType


def calls(work: Callable[[], object]) -> int:
    """How many functions are called while it runs, of Python and of C, in this thread and those that it starts."""
    count = 0

    def one(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    threading.setprofile(one)
    sys.setprofile(one)
    try:
        work()
    finally:
        sys.setprofile(before)
        threading.setprofile(None)  # type: ignore[arg-type]
    return count


def check_linear(work: Callable[[int], object], n: int) -> None:
    """Four times as much to do costs four times as many calls, and not sixteen times."""
    work(n)  # what is made only once
    small, large = calls(lambda: work(n)), calls(lambda: work(4 * n))
    assert n <= small
    assert large < 5 * small, f"{small} calls for {n}, {large} for {4 * n}"
