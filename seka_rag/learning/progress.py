"""How long-running learning tells what it is doing."""

from __future__ import annotations

from collections.abc import Callable

#: Called with the name of a step, how much of it is done, and how much it is in all.
Progress = Callable[[str, int, int], None]


def counting(show: Progress, name: str, total: int) -> Callable[[int], None]:
    """Turns counts since the last call, as learning reports them, into counts so far."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        show(name, done, total)

    return advance
