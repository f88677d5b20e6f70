"""A server of its own on loopback, for some minutes, with clients that are good, wrong, slow, silent and gone.

``make soak ARGS="--minutes 30"``. It must end with: every good answer equal to its single run, no failure of the server but
refusals, no growth of memory, threads and open files, all slots free, and no traceback.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import typer
from prometheus_client.parser import text_string_to_metric_families

LIMITS = {"timeout": 20, "read-timeout": 2, "write-timeout": 2, "max-queue": 48, "shutdown-timeout": 5}
#: Seconds: what is late on a busy machine is late, not wrong.
PATIENCE = 300
#: Statuses of refusals; 504 and 503 are refusals too, of a server that has too much to do.
REFUSED = {400, 401, 404, 405, 408, 413, 429, 503, 504}
NAMES, PLACES = ("Alec", "Maud", "Edna", "Astrid", "Boris"), ("Oslo", "Lyon", "Rome", "Lima")


@dataclass
class Case:
    """A good request, and what its answer was when nobody else asked."""

    path: str
    body: dict[str, Any]
    alone: str = ""


@dataclass
class Tally:
    """What was seen."""

    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    figures: list[dict[str, float]] = field(default_factory=list)


def cases(model: str) -> list[Case]:
    """Requests that differ in everything that may differ."""
    found = []
    for i in range(48):
        name, place = NAMES[i % 5], PLACES[i % 4]
        text = f"{'A note. ' * (i % 7)}The home of {name} is in {place}. Which city is the home of {name}?"
        start = text.index("The home")
        span = {"start": start, "end": start + 24, "weight": 1 + i % 3 / 2, "source": f"note {i}"}
        steering: Any = [{"method": "Seka", "gain": 0.5 + i % 4 / 2}, "auto", None][i % 3]
        messages = [{"role": "user", "content": text}]
        seka = {"spans": [{"message": 0, **span}] if i % 5 else [], "steering": steering}
        body: dict[str, Any] = {"model": model, "seka": seka, "stream": i % 2 == 0}
        if i % 8 == 7:
            found.append(Case("/v1/responses", {**body, "input": messages, "max_output_tokens": 4 + i % 5}))
            continue
        if i % 8 == 6:
            body["seka"] = {"spans": [span], "steering": steering}
            found.append(Case("/v1/completions", {**body, "prompt": text, "max_tokens": 6, "repetition_penalty": 1.3}))
            continue
        extra: list[dict[str, Any]] = [
            {}, {"stop": ["o"]}, {"n": 2}, {"temperature": 1.2, "seed": i}, {"logprobs": True},
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": [*PLACES]}}}},
        ]  # fmt: skip
        found.append(
            Case("/v1/chat/completions", {**body, "messages": messages, "max_tokens": 4 + i % 9, **extra[i % 6]})
        )
    return found


WRONG: list[Any] = [
    b"{", b"[" * 5000, b"", b"[]", {"messages": []}, {"messages": [{"role": "root", "content": "x"}]},
    {"messages": [{"role": "user", "content": "x"}], "seka": {"spans": [{"message": 0, "start": 0, "end": 1}] * 30_000}},
    {"messages": [{"role": "user", "content": "x"}] * 50_000},
    {"messages": [{"role": "user", "content": "home " * 60_000}]},
    {"messages": [{"role": "user", "content": "x"}], "seka": {"steering": {"method": []}}},
    {"messages": [{"role": "user", "content": "x"}], "max_tokens": 10**9},
    {"messages": [{"role": "user", "content": "x"}], "temperature": 10**400},
    {"messages": [{"role": "user", "content": "\ud83d"}]},
    b"x" * 5_000_000,
]  # fmt: skip
LONG = {"prompt": "Alec", "max_tokens": 1500, "stream": True, "repetition_penalty": 5.0}


class Clients:
    """All kinds of clients of one server."""

    def __init__(self, url: str, good: list[Case], tally: Tally) -> None:
        self.url, self.good, self.tally = url, good, tally
        self.address = (httpx.URL(url).host, httpx.URL(url).port or 80)

    async def answer(self, client: httpx.AsyncClient, case: Case) -> tuple[int, str]:
        """Status, and what must be the same each time: texts, reports, scores."""
        got = await client.post(self.url + case.path, json=case.body)
        if got.status_code != 200:
            return got.status_code, got.text[:200]
        events = [json.loads(line[6:]) for line in got.text.splitlines() if line.startswith("data: {")]
        failed = next((e["error"] for e in events if e.get("error") and "choices" not in e and "type" not in e), None)
        if failed or any(e.get("type") == "error" for e in events):  # after the status of the stream had been sent
            code = failed["code"] if failed else next(e["code"] for e in events if e.get("type") == "error")
            late = code == "GenerationTimeoutError"
            return (504 if late else 500), code
        return 200, json.dumps([_essence(e) for e in events or [got.json()]])

    async def right(self) -> None:
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            while True:
                case = random.choice(self.good)
                status, seen = await self.answer(client, case)
                self.tally.answers[f"good {status}"] += 1
                if status == 200 and seen != case.alone:
                    self.tally.wrong.append(f"another answer than alone: {case.body}\n  {case.alone}\n  {seen}")
                elif status != 200 and status not in (429, 503, 504):
                    self.tally.wrong.append(f"{status} to a good request: {seen}")

    async def faulty(self) -> None:
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            while True:
                body = random.choice(WRONG)
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                headers = {"content-type": "application/json"}
                with contextlib.suppress(httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
                    got = await client.post(self.url + "/v1/chat/completions", content=data, headers=headers)
                    self.tally.answers[f"wrong {got.status_code}"] += 1
                    if got.status_code not in REFUSED:
                        self.tally.wrong.append(f"{got.status_code} to a wrong request: {data[:80]!r} {got.text[:200]}")
                await asyncio.sleep(0.05)

    async def gone(self) -> None:
        """Leaves after a moment, whatever comes."""
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            while True:
                body = {**LONG, "stream": random.random() < 0.5}
                with contextlib.suppress(asyncio.TimeoutError):
                    request = client.post(self.url + "/v1/completions", json=body)
                    await asyncio.wait_for(request, random.uniform(0.01, 0.6))
                self.tally.answers["gone"] += 1

    async def unread(self) -> None:
        """Asks for a long stream, and does not read it."""
        await self._raw(_request(LONG), 6.0, "unread")

    async def dripping(self) -> None:
        """Reads a long stream a little at a time."""
        while True:
            reader, writer = await asyncio.open_connection(*self.address, limit=1024)
            writer.write(_request({**LONG, "max_tokens": 60}))
            with contextlib.suppress(OSError):
                while await reader.read(512):
                    await asyncio.sleep(0.02)
            self.tally.answers["dripping"] += 1
            writer.close()

    async def silent(self) -> None:
        """Sends half a request."""
        whole = _request(LONG)
        await self._raw(whole[: random.randrange(len(whole) - 1)], 4.0, "silent")

    async def _raw(self, data: bytes, seconds: float, name: str) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.setblocking(False)
            with contextlib.suppress(OSError):
                await loop.sock_connect(client, self.address)
                await loop.sock_sendall(client, data)
                await asyncio.sleep(seconds)
            client.close()
            self.tally.answers[name] += 1


def _essence(event: dict[str, Any]) -> Any:
    """Without ids and times, which differ each time."""
    if "choices" in event:
        seka = {k: v for k, v in (event.get("seka") or {}).items() if k != "invalid_tool_calls"}
        return [event["choices"], event.get("usage"), seka]
    whole = event.get("response", event)
    texts = [part["text"] for item in whole.get("output") or () for part in item["content"]]
    return [event.get("type"), event.get("delta"), texts, whole.get("usage"), whole.get("seka")]


def _request(body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def _of_process(pid: int) -> dict[str, float]:
    status = Path(f"/proc/{pid}/status").read_text()
    rss, threads = (int(re.search(rf"{name}:\s+(\d+)", status)[1]) for name in ("VmRSS", "Threads"))  # type: ignore[index]
    return {"rss": rss / 1024, "threads": threads, "files": len(os.listdir(f"/proc/{pid}/fd"))}


def _of_server(url: str) -> dict[str, float]:
    text = httpx.get(url + "/metrics", timeout=PATIENCE).text
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    names = ("seka_running_requests", "seka_waiting_requests", "seka_batch_rows_sum", "seka_batch_rows_count")
    return {s.name: s.value for s in samples if s.name in names}


async def soak(url: str, pid: int, model: str, minutes: float) -> Tally:
    """Clients of all kinds for so long; figures every few seconds."""
    tally, good = Tally(), cases(model)
    clients = Clients(url, good, tally)
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        for case in good:
            status, case.alone = await clients.answer(client, case)
            if status != 200:
                raise SystemExit(f"{status} to a good request that is alone: {case.body}: {case.alone}")
    kinds: list[tuple[Callable[[], Awaitable[None]], int]] = [
        (clients.right, 10), (clients.faulty, 2), (clients.gone, 2), (clients.unread, 2), (clients.dripping, 2),
        (clients.silent, 2),
    ]  # fmt: skip
    tasks = [asyncio.ensure_future(kind()) for kind, count in kinds for _ in range(count)]
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        await asyncio.sleep(min(5.0, max(0.1, end - time.monotonic())))
        tally.figures.append({**_of_process(pid), **await asyncio.to_thread(_of_server, url)})
        if done := [task for task in tasks if task.done()]:
            raise SystemExit(f"a client failed: {done[0].exception()!r}")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for _ in range(60):  # what was asked for and left is still being ended
        await asyncio.sleep(0.5)
        last = await asyncio.to_thread(_of_server, url)
        if not last["seka_running_requests"] and not last["seka_waiting_requests"]:
            break
    tally.figures.append({**_of_process(pid), **last})
    return tally


def judged(tally: Tally) -> list[str]:
    """What is wrong with it; memory is compared between the second and the last quarter."""
    wrong, figures = list(tally.wrong), tally.figures
    quarter = max(1, len(figures) // 4)
    for name, most in (("rss", 1.05), ("threads", 1.3), ("files", 1.5)):
        first = statistics.median(f[name] for f in figures[quarter : 2 * quarter])
        last = statistics.median(f[name] for f in figures[-quarter:])
        if last > first * most + 5:
            wrong.append(f"{name} grew from {first:.0f} to {last:.0f}")
    if figures[-1]["seka_running_requests"] or figures[-1]["seka_waiting_requests"]:
        wrong.append(f"slots are not free at the end: {figures[-1]}")
    if not tally.answers["good 200"]:
        wrong.append("no good request was answered")
    return wrong


def main(minutes: float = 5.0, model: str = "seka-demo", bank: str = "", max_batch: int = 16) -> None:
    """Run it, print what was seen, and end with status 1 if something is wrong."""
    limits = [word for name, value in LIMITS.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-c", "from seka_rag.cli import app; app()", "serve", model, "--port", "0", "--log-json"]
    command += [*limits, "--max-batch", str(max_batch), *(["--bank", bank] if bank else [])]
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            if not line:
                raise SystemExit("the server did not start")
            tally = asyncio.run(soak(line.split()[-1].removesuffix("/v1"), server.pid, model, minutes))
        finally:
            server.send_signal(signal.SIGINT)
            status = server.wait(PATIENCE)
        log.seek(0)
        text = log.read()
    wrong = judged(tally)
    if status != 0:
        wrong.append(f"the server ended with {status}")
    unforeseen = [
        line for line in text.splitlines() if not line.startswith("{") or "InternalError" in line or '"error",' in line
    ]
    wrong += [f"in the log: {line}" for line in unforeseen[:20]]
    first, last = tally.figures[0], tally.figures[-1]
    rows = last["seka_batch_rows_sum"] / max(1.0, last["seka_batch_rows_count"])
    print(f"{minutes:g} minutes, {model}: " + ", ".join(f"{n} {what}" for what, n in sorted(tally.answers.items())))
    for name, unit in (("rss", "MiB"), ("threads", "threads"), ("files", "open files")):
        most = max(f[name] for f in tally.figures)
        parts = [tally.figures[i * len(tally.figures) // 4 : (i + 1) * len(tally.figures) // 4] for i in range(4)]
        quarters = ", ".join(f"{statistics.median(f[name] for f in part):.0f}" for part in parts if part)
        print(
            f"{unit}: {first[name]:.0f} at first, {quarters} in the quarters, {most:.0f} at most, {last[name]:.0f} at the end"
        )
    print(f"{rows:.1f} requests in the batch of a request, on average; {len(tally.wrong)} wrong answers")
    for one in wrong[:10]:
        print("WRONG:", one)
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    typer.run(main)
