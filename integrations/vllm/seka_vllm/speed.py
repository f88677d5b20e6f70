"""What the plugin costs: throughput of vLLM without it, with it and nothing highlighted, and with highlights, in turn.

``python -m seka_vllm.speed --rounds 100`` asks one engine the same prompts round by round, in an order that changes. The
plugin is taken out of it and put back in between, so that weights, caches and all else are the same. Plain is asked twice: how
far apart both are is chance. A compiled model holds the plugin in its graph, so there (``--compiled``) plain is a second one.

It prints the median of the ratio to the mean of both plain ones in the same round, with its 95% interval, of processor time
and of wall time.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from seka_vllm.rotary import SteeredRotary
from seka_vllm.settings import KEY
from seka_vllm.workload import Workload

PLAIN, AGAIN, IDLE, ACTIVE = WAYS = ("plain", "plain, again", "plugin, idle", "plugin, a quarter highlighted")
_RESAMPLED = 4000


class Plugin:
    """The plugin in an eager engine of this process, to be taken out and put back.

    What stays are the functions of vLLM that it wraps, which then look for an attribute and go on.
    """

    def __init__(self, llm: Any) -> None:
        (self.runner,) = llm.collective_rpc(lambda worker: worker.model_runner)
        self.scheduler = llm.llm_engine.engine_core.engine_core.scheduler
        modules = dict(self.runner.model.named_modules())
        places = (name.rpartition(".") for name, module in modules.items() if isinstance(module, SteeredRotary))
        self.rotaries = [(modules[attention], name, getattr(modules[attention], name)) for attention, _, name in places]
        self.of_runner, self.of_scheduler = getattr(self.runner, KEY), getattr(self.scheduler, KEY)

    def put(self, *, back: bool) -> None:
        """Put it back, or take it out."""
        for attention, name, steered in self.rotaries:
            setattr(attention, name, steered if back else steered.inner)
        setattr(self.runner, KEY, self.of_runner if back else None)
        setattr(self.scheduler, KEY, self.of_scheduler if back else None)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m seka_vllm.speed", description=str(__doc__).split("\n")[0])
    Workload.add_to(parser)
    parser.add_argument("--rounds", type=int, default=100)
    given = parser.parse_args(arguments)
    work = Workload.of(given)
    ways, draw = _ways(work), random.Random(0)
    spent: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for i in range(given.rounds + 1):
        for way in draw.sample(WAYS, len(WAYS)):
            seconds = ways[way]()
            if i:  # the first round is to get warm
                spent[way].append(seconds)
    print(f"\n{given.rounds} rounds of {work}")
    print("| way | processor time: throughput against plain | wall time: the same | tokens a second |")
    print("|---|---|---|---|")
    for way in WAYS:
        cells = [_ratios(spent, way, clock) for clock in (0, 1)]
        speed = work.tokens / statistics.median(wall for _, wall in spent[way])
        print(f"| {way} | {cells[0]} | {cells[1]} | {speed:.0f} |")


def _ways(work: Workload) -> dict[str, Callable[[], tuple[float, float]]]:
    """For each way, what asks all prompts once and says the seconds of processor and wall time."""
    plugin = work.engine(plugin=True)
    if work.compiled:
        plain, put = work.engine(plugin=False), {False: _nothing, True: _nothing}
    else:
        plain, inside = plugin, Plugin(plugin)
        put = {back: partial(inside.put, back=back) for back in (False, True)}

    def timed(llm: Any, prepare: Callable[[], None], highlighted: bool) -> tuple[float, float]:
        prepare()
        cpu, wall = time.process_time(), time.perf_counter()
        work.ask(llm, highlighted=highlighted)
        return time.process_time() - cpu, time.perf_counter() - wall

    return {
        PLAIN: partial(timed, plain, put[False], False),
        AGAIN: partial(timed, plain, put[False], False),
        IDLE: partial(timed, plugin, put[True], False),
        ACTIVE: partial(timed, plugin, put[True], True),
    }


def _nothing() -> None: ...


def _ratios(spent: dict[str, list[tuple[float, float]]], way: str, clock: int) -> str:
    """The median over rounds, and the range that holds 95% of medians of rounds drawn anew."""
    rounds = zip(spent[PLAIN], spent[AGAIN], spent[way], strict=True)
    ratios, draw = [(p[clock] + a[clock]) / 2 / s[clock] for p, a, s in rounds], random.Random(0)
    medians = [statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(_RESAMPLED)]
    low, high = (sorted(medians)[int(share * _RESAMPLED)] for share in (0.025, 0.975))
    return f"{statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
