"""What the plugin costs: throughput of vLLM without it, with it and nothing highlighted, and with highlights, in turn.

``python -m seka_vllm.speed --rounds 9`` runs two engines, each in a process of its own, and asks them the same prompts round
by round in an order that changes. It prints the median of the ratio to the plain engine in the same round, with the range of
the middle half, of processor time of the engine's processes and of wall time. "plain, again" shows how far a ratio is off by
chance.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seka_vllm.highlights import Highlights

PLAIN, AGAIN, IDLE, ACTIVE = WAYS = ("plain", "plain, again", "plugin, idle", "plugin, a quarter highlighted")


@dataclass
class Engine:
    """An engine and its processes: that which schedules, and that which runs the model."""

    llm: Any
    processes: list[Any]

    @classmethod
    def start(cls, folder: str, bank: str | None, options: dict[str, Any]) -> Engine:
        import psutil
        from vllm import LLM

        before = {child.pid for child in psutil.Process().children(recursive=True)}
        os.environ["VLLM_PLUGINS"] = "" if bank is None else "seka"
        additional = {} if bank is None else {"seka": {"banks": {"main": bank}}}
        llm = LLM(folder, additional_config=additional, **options)
        new = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
        return cls(llm, new)

    def cpu(self) -> float:
        """Seconds that its processes have computed."""
        times = [process.cpu_times() for process in self.processes]
        return float(sum(t.user + t.system for t in times))

    def peak(self) -> int:
        """The most memory that the largest of its processes, which has the model, has held, in bytes."""
        largest = max(self.processes, key=lambda process: process.memory_info().rss)
        status = Path(f"/proc/{largest.pid}/status").read_text()
        return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    from vllm import SamplingParams

    from seka_rag.hf.packaged import PACKAGED, GgufWheel, convert

    given = _options(arguments)
    source = PACKAGED["smollm2"].source
    assert isinstance(source, GgufWheel)
    folder = str(convert("smollm2", source)) if given.model == "smollm2" else given.model
    options = {
        "dtype": given.dtype,
        "max_model_len": given.length + given.new,
        "enforce_eager": not given.compiled,
        "max_num_seqs": given.requests,
        "max_num_batched_tokens": 512,
        "enable_prefix_caching": False,
        "disable_log_stats": True,
    }
    plain, plugin = Engine.start(folder, None, options), Engine.start(folder, given.bank, options)
    draw = random.Random(0)
    prompts = [[draw.randrange(1000, 40000) for _ in range(given.length)] for _ in range(given.requests)]
    marked = Highlights(((given.length // 4, given.length // 2, 1.0),)).as_args()

    def ask(engine: Engine, args: dict[str, Any] | None) -> tuple[float, float]:
        params = SamplingParams(max_tokens=given.new, ignore_eos=True, temperature=0.0, extra_args=args)
        cpu, wall = engine.cpu(), time.perf_counter()
        outputs = engine.llm.generate([{"prompt_token_ids": p} for p in prompts], params, use_tqdm=False)
        spent = engine.cpu() - cpu, time.perf_counter() - wall
        reports = [o.kv_transfer_params["seka"]["tokens_edited"] for o in outputs if args]
        assert reports == ([given.length // 2 - given.length // 4] * given.requests if args else [])
        return spent

    ways: dict[str, Callable[[], tuple[float, float]]] = {
        PLAIN: lambda: ask(plain, None),
        AGAIN: lambda: ask(plain, None),
        IDLE: lambda: ask(plugin, None),
        ACTIVE: lambda: ask(plugin, marked),
    }
    for warm in ways.values():
        warm()
    spent: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(given.rounds):
        for way in draw.sample(WAYS, len(WAYS)):
            spent[way].append(ways[way]())
    _print(given, spent, {"plain": plain.peak(), "plugin": plugin.peak()})
    for engine in (plain, plugin):
        engine.llm.llm_engine.engine_core.shutdown()


def _print(given: argparse.Namespace, spent: dict[str, list[tuple[float, float]]], peaks: dict[str, int]) -> None:
    tokens = given.requests * (given.length + given.new)
    print(f"\n{given.rounds} rounds of {given.requests} requests, {given.length} + {given.new} tokens, {given.dtype}")
    print("| way | processor time: throughput against plain | wall time: the same | tokens a second |")
    print("|---|---|---|---|")
    for way in WAYS:
        cells = []
        for clock in (0, 1):
            ratios = [p[clock] / s[clock] for p, s in zip(spent[PLAIN], spent[way], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
            cells.append(f"{middle:.3f} ({low:.3f} to {high:.3f})")
        speed = tokens / statistics.median(wall for _, wall in spent[way])
        print(f"| {way} | {cells[0]} | {cells[1]} | {speed:.0f} |")
    print("; ".join(f"peak memory of the engine, {name}: {peak / 2**20:.0f} MiB" for name, peak in peaks.items()))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m seka_vllm.speed", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2", help="a folder or name for vLLM")
    parser.add_argument("--bank", default="smollm2", help="its bank")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--compiled", action="store_true", help="compiled, or with CUDA graphs; otherwise eager")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--new", type=int, default=32)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
