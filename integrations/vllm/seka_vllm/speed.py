"""What the plugin costs: throughput of vLLM without it, with it and nothing highlighted, and with highlights, in turn.

``python -m seka_vllm.speed --rounds 9`` runs two engines in one process, of which one has no bank, and asks them the same
prompts round by round in an order that changes. It prints the median of the ratio to the plain engine in the same round, with
the range of the middle half, of processor time and of wall time. "plain, again" shows how far a ratio is off by chance.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from seka_vllm.highlights import Highlights

PLAIN, AGAIN, IDLE, ACTIVE = WAYS = ("plain", "plain, again", "plugin, idle", "plugin, a quarter highlighted")


def start(folder: str, bank: str | None, options: dict[str, Any]) -> Any:
    """An engine in this process; without a bank the plugin does nothing in it."""
    from vllm import LLM

    return LLM(folder, additional_config={} if bank is None else {"seka": {"banks": {"main": bank}}}, **options)


def held(llm: Any) -> int:
    """The bytes that the plugin holds in an engine: what it adds to keys, or multiplies them by, and the weights of tokens."""

    def size(worker: Any) -> int:
        steering = worker.model_runner.seka
        edits = [edit for layers in steering.edits.values() for edit in layers.values()]
        tensors = [value for edit in edits for value in vars(edit).values() if hasattr(value, "nbytes")]
        return int(sum(tensor.nbytes for tensor in tensors) + steering.gates.weights.nbytes)

    return int(sum(llm.collective_rpc(size)))


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
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    plain, plugin = start(folder, None, options), start(folder, given.bank, options)
    draw = random.Random(0)
    prompts = [[draw.randrange(1000, 40000) for _ in range(given.length)] for _ in range(given.requests)]
    marked = Highlights(((given.length // 4, given.length // 2, 1.0),)).as_args()

    def ask(llm: Any, args: dict[str, Any] | None) -> tuple[float, float]:
        params = SamplingParams(max_tokens=given.new, ignore_eos=True, temperature=0.0, extra_args=args)
        cpu, wall = time.process_time(), time.perf_counter()
        outputs = llm.generate([{"prompt_token_ids": p} for p in prompts], params, use_tqdm=False)
        spent = time.process_time() - cpu, time.perf_counter() - wall
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
    _print(given, spent)
    print(f"the plugin holds {held(plugin) / 2**20:.2f} MiB")


def _print(given: argparse.Namespace, spent: dict[str, list[tuple[float, float]]]) -> None:
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
