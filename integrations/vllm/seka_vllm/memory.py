"""What memory the plugin takes: peaks of processes that run one engine each, plain, idle and with highlights, in turn.

``python -m seka_vllm.memory --rounds 3`` prints the median and the range of the peak of a process, of the peak of a GPU where
there is one, and what the plugin says that it holds: its edits, and one weight for each token of a step.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seka_vllm.workload import Workload

WAYS = {"plain": (False, False), "plugin, idle": (True, False), "plugin, a quarter highlighted": (True, True)}
_RESULT = "peaks: "


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m seka_vllm.memory", description=str(__doc__).split("\n")[0])
    Workload.add_to(parser)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help="only this one, in this process")
    given = parser.parse_args(arguments)
    work = Workload.of(given)
    if given.way:
        print(_RESULT + json.dumps(_peaks(work, *WAYS[given.way])))
        return
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    passed = list(sys.argv[1:] if arguments is None else arguments)
    for _ in range(given.rounds):
        for way, peaks in found.items():
            command = [sys.executable, "-m", "seka_vllm.memory", *passed, "--way", way]
            shown = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            peaks.append(json.loads(shown.rpartition(_RESULT)[2].splitlines()[0]))
    print(f"\n{given.rounds} processes a way, {work}, MiB")
    names = list(found["plain"][0])
    print(f"| way | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for way, peaks in found.items():
        print(f"| {way} | {' | '.join(_spread([peak[name] for peak in peaks]) for name in names)} |")


def _spread(values: Sequence[float]) -> str:
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.1f} ({low:.1f} to {high:.1f})" if low != high else f"{middle:.2f}"


def _peaks(work: Workload, plugin: bool, highlighted: bool) -> dict[str, float]:
    """MiB of this process, of its GPU if it has one, and of what the plugin holds."""
    import torch

    llm = work.engine(plugin=plugin)
    for _ in range(3):
        work.ask(llm, highlighted=highlighted)
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    peaks = {"process": int(kilobytes) / 2**10}
    if torch.cuda.is_available():
        peaks["GPU"] = torch.cuda.max_memory_allocated() / 2**20
    return {**peaks, "plugin holds": sum(llm.collective_rpc(_held)) / 2**20}


def _held(worker: Any) -> int:
    """Bytes of what is added to keys, or multiplies them, and of the weights of tokens."""
    steering = getattr(worker.model_runner, "seka", None)
    if steering is None:
        return 0
    edits = [edit for layers in steering.edits.values() for edit in layers.values()]
    tensors = [value for edit in edits for value in vars(edit).values() if hasattr(value, "nbytes")]
    return int(sum(tensor.nbytes for tensor in tensors) + steering.gates.weights.nbytes)


if __name__ == "__main__":
    main()
