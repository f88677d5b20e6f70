"""What the plugin costs: throughput of vLLM without it, with it and nothing highlighted, and with highlights, in turn.

``python -m seka_vllm.speed --rounds 9`` runs two engines in one process, of which one has no bank, and asks them the same
prompts round by round in an order that changes, the plain one twice. It prints the median of the ratio to the mean of both in
the same round, with its 95% interval, of processor time and of wall time. How far apart both plain rows are is chance.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from seka_vllm.workload import Workload

PLAIN, AGAIN, IDLE, ACTIVE = WAYS = ("plain", "plain, again", "plugin, idle", "plugin, a quarter highlighted")
_RESAMPLED = 4000


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m seka_vllm.speed", description=str(__doc__).split("\n")[0])
    Workload.add_to(parser)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args(arguments)
    work = Workload.of(given)
    plain, plugin = work.engine(plugin=False), work.engine(plugin=True)
    asked = {PLAIN: (plain, False), AGAIN: (plain, False), IDLE: (plugin, False), ACTIVE: (plugin, True)}
    ways = {way: partial(work.ask, llm, highlighted=highlighted) for way, (llm, highlighted) in asked.items()}
    draw = random.Random(0)
    for warm in ways.values():
        warm()
    spent: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(given.rounds):
        for way in draw.sample(WAYS, len(WAYS)):
            spent[way].append(_timed(ways[way]))
    print(f"\n{given.rounds} rounds of {work}")
    print("| way | processor time: throughput against plain | wall time: the same | tokens a second |")
    print("|---|---|---|---|")
    for way in WAYS:
        cells = [_ratios(spent, way, clock) for clock in (0, 1)]
        speed = work.tokens / statistics.median(wall for _, wall in spent[way])
        print(f"| {way} | {cells[0]} | {cells[1]} | {speed:.0f} |")


def _timed(function: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of processor and wall time."""
    cpu, wall = time.process_time(), time.perf_counter()
    function()
    return time.process_time() - cpu, time.perf_counter() - wall


def _ratios(spent: dict[str, list[tuple[float, float]]], way: str, clock: int) -> str:
    """The median over rounds, and the range that holds 95% of medians of rounds drawn anew."""
    rounds = zip(spent[PLAIN], spent[AGAIN], spent[way], strict=True)
    ratios, draw = [(p[clock] + a[clock]) / 2 / s[clock] for p, a, s in rounds], random.Random(0)
    medians = [statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(_RESAMPLED)]
    low, high = (sorted(medians)[int(share * _RESAMPLED)] for share in (0.025, 0.975))
    return f"{statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
