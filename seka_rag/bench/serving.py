"""What it gains to run requests of several clients together: ``python -m seka_rag.bench.serving``.

Each way is a server of its own, ``seka-rag serve`` on loopback, that is asked by all clients at once. The servers take turns,
so that what else the machine does meets all of them. Prompts and highlights differ; everything is steered and greedy, so that
the answers can be compared with those of one request after another.
"""

from __future__ import annotations

import asyncio
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

WAYS = {
    "one after another": ("--max-concurrent", "1", "--max-batch", "1"),
    "4 side by side": ("--max-concurrent", "4", "--max-batch", "1"),
    "one batch after another": ("--max-concurrent", "1", "--max-batch", "{clients}"),
    "4 batches side by side (as served by default)": ("--max-concurrent", "4", "--max-batch", "16"),
}
_PATIENCE = 3600  # seconds for an answer: the last of many waits for all others
_NAMES, _PLACES = ("Alec", "Maud", "Edna", "Astrid", "Boris", "Nora"), ("Oslo", "Lyon", "Rome", "Lima")


@dataclass(frozen=True)
class Load:
    """What one round of all clients took.

    Attributes:
        seconds: from the first request to the last answer.
        processor: seconds that all threads of the server computed meanwhile, which other load on the machine disturbs less.
        waits: of each client, for its answer.
        tokens: of all answers.
        rows: requests in the batch in which a request ran, on average.
        texts: the answers.
    """

    seconds: float
    processor: float
    waits: tuple[float, ...]
    tokens: int
    rows: float
    texts: tuple[str, ...]


def requests(clients: int, notes: int, tokens: int) -> list[dict[str, object]]:
    """A request for each client: about 7 tokens a note, one sentence highlighted."""
    found = []
    for i in range(clients):
        name, place = _NAMES[i % len(_NAMES)], _PLACES[i % len(_PLACES)]
        fact = f"The home of {name} is in {place}."
        before = "The letter arrived in the spring. " * (notes // 2 + i % 5)
        text = f"{before}{fact} {'The letter arrived in the spring. ' * (notes // 2)}Which city is the home of {name}?"
        start = text.index(fact)
        span = {"message": 0, "start": start, "end": start + len(fact)}
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, "seka": {"spans": [span]}}
        found.append(body)
    return found


@contextmanager
def served(model: str, options: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """The address and the process of a server with these options."""
    command = [sys.executable, "-c", "from seka_rag.cli import app; app()", "serve", model, "--port", "0"]
    command += ["--timeout", str(_PATIENCE), *options]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        if not line:
            raise SystemExit(f"seka-rag serve {model} did not start")
        yield line.split()[-1].removesuffix("/v1"), server.pid
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)


async def ask_all(url: str, pid: int, bodies: list[dict[str, object]]) -> Load:
    """All requests at once to the server that is process ``pid``."""
    import httpx

    async def ask(client: httpx.AsyncClient, body: dict[str, object]) -> tuple[float, dict[str, Any]]:
        began = time.perf_counter()
        answer = await client.post(url + "/v1/chat/completions", json=body)
        answer.raise_for_status()
        return time.perf_counter() - began, answer.json()

    async with httpx.AsyncClient(timeout=_PATIENCE) as client:
        before, computed = await _rows(client, url), _processor(pid)
        began = time.perf_counter()
        answers = await asyncio.gather(*(ask(client, body) for body in bodies))
        seconds, computed = time.perf_counter() - began, _processor(pid) - computed
        after = await _rows(client, url)
    return Load(
        seconds,
        computed,
        tuple(wait for wait, _ in answers),
        sum(answer["usage"]["completion_tokens"] for _, answer in answers),
        (after[0] - before[0]) / (after[1] - before[1]),
        tuple(answer["choices"][0]["message"]["content"] for _, answer in answers),
    )


async def _rows(client: Any, url: str) -> tuple[float, float]:
    """Sum and count of the batches of all requests so far."""
    lines = (await client.get(url + "/metrics")).text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("seka_batch_rows_"))
    return float(values.get("seka_batch_rows_sum", 0)), float(values.get("seka_batch_rows_count", 0))


def _processor(pid: int) -> float:
    """Seconds that the threads of a process computed so far; not a number where the system has no ``/proc``."""
    path = Path(f"/proc/{pid}/stat")
    if not path.exists():
        return math.nan
    fields = path.read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def table(found: dict[str, list[Load]]) -> Iterator[str]:
    """A row for each way: medians over the rounds, and throughput as ratio to the first way's in the same round."""
    names = "seconds", "tokens per second", "throughput", "processor time per token", "median wait", "longest wait"
    yield f"| | {' | '.join((*names, 'rows', 'equal answers'))} |"
    yield "|---" * 9 + "|"
    plain = next(iter(found.values()))
    for way, loads in found.items():
        rates = [load.tokens / load.seconds for load in loads]
        ratios = [rate * one.seconds / one.tokens for rate, one in zip(rates, plain, strict=True)]
        equal = [a == b for load in loads for a, b in zip(load.texts, plain[0].texts, strict=True)]
        cells = [
            f"{statistics.median(load.seconds for load in loads):.2f}",
            f"{statistics.median(rates):.1f}",
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
            f"{1000 * statistics.median(load.processor / load.tokens for load in loads):.0f} ms",
            f"{statistics.median(statistics.median(load.waits) for load in loads):.2f} s",
            f"{statistics.median(max(load.waits) for load in loads):.2f} s",
            f"{statistics.median(load.rows for load in loads):.1f}",
            f"{sum(equal)} of {len(equal)}",
        ]
        yield f"| {way} | " + " | ".join(cells) + " |"


def in_turn(
    servers: dict[str, tuple[str, int]], bodies: list[dict[str, Any]], rounds: int, seconds: float
) -> dict[str, list[Load]]:
    """What each round took of each server, the last one first in every second round.

    Args:
        seconds: no round begins that would end later, as far as the longest so far tells.
    """
    found: dict[str, list[Load]] = {way: [] for way in servers}
    began, longest = time.perf_counter(), 0.0
    for number in range(rounds):
        start = time.perf_counter()
        if start - began + longest > seconds:
            break
        for way in list(servers)[:: 1 if number % 2 == 0 else -1]:
            found[way].append(asyncio.run(ask_all(*servers[way], bodies)))
        longest = max(longest, time.perf_counter() - start)
    return found


def main(
    model: str = "seka-demo",
    clients: int = 32,
    notes: int = 16,
    tokens: int = 32,
    rounds: int = 3,
    threads: int = 1,
    seconds: float = 300,
) -> None:
    """Print the table. NOTES is the length of a prompt, in sentences; THREADS is of torch, for each generation."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    bodies = requests(clients, notes, tokens)
    with ExitStack() as stack:
        servers = {
            way: stack.enter_context(served(model, tuple(option.format(clients=clients) for option in options)))
            for way, options in WAYS.items()
        }
        for server in servers.values():
            asyncio.run(ask_all(*server, bodies[:2]))  # warms up
        load, found = os.getloadavg()[0], in_turn(servers, bodies, rounds, seconds)
    machine = platform.processor() or platform.machine()
    print(
        f"{machine}, {os.cpu_count()} cores, {threads} threads a generation, load {load:.1f} before, {model}, "
        f"{clients} clients at once, {tokens} tokens at most, {len(next(iter(found.values())))} rounds\n"
    )
    for row in table(found):
        print(row)


if __name__ == "__main__":
    typer.run(main)
