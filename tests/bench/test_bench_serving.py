"""The benchmark of serving: its requests are marked where they say, and its table is arithmetic."""

import os
import sys
import time

import pytest

from seka_rag.bench.serving import Load, _processor, in_turn, requests, table


def test_every_client_highlights_the_sentence_that_answers_it():
    bodies = requests(7, 4, 5)
    for body in bodies:
        (message,), (span,) = body["messages"], body["seka"]["spans"]
        marked = message["content"][span["start"] : span["end"]]
        name = message["content"].split("home of ")[-1].rstrip("?")
        assert marked.startswith(f"The home of {name} is in ")
        assert body["max_tokens"] == 5
    assert len({str(body["messages"]) for body in bodies}) == 7


def test_the_table_compares_with_the_first_way_in_the_same_round():
    plain = [Load(10.0, 4.0, (5.0, 10.0), 20, 1.0, ("a", "b")), Load(20.0, 8.0, (10.0, 20.0), 20, 1.0, ("a", "b"))]
    batch = [Load(5.0, 1.0, (4.0, 5.0), 20, 2.0, ("a", "c")), Load(4.0, 1.0, (2.0, 4.0), 20, 2.0, ("a", "b"))]
    head, _, *rows = table({"one": plain, "batch": batch})
    assert head.startswith("| | seconds | tokens per second | throughput | processor time per token |")
    assert rows == [
        "| one | 15.00 | 1.5 | 1.00 (1.00-1.00) | 300 ms | 11.25 s | 15.00 s | 1.0 | 4 of 4 |",
        "| batch | 4.50 | 4.5 | 3.50 (2.00-5.00) | 50 ms | 3.75 s | 4.50 s | 2.0 | 3 of 4 |",
    ]


def test_servers_take_turns_until_the_time_is_over(monkeypatch):
    asked = []

    async def ask(url, pid, bodies):
        asked.append(url)
        return Load(1.0, 1.0, (1.0,), 1, 1.0, ("a",))

    monkeypatch.setattr("seka_rag.bench.serving.ask_all", ask)
    monkeypatch.setattr("seka_rag.bench.serving.time.perf_counter", lambda: float(len(asked)))
    servers = {"one": ("a", 1), "batch": ("b", 2)}
    found = in_turn(servers, [], rounds=5, seconds=6)
    assert asked == ["a", "b", "b", "a", "a", "b"]
    assert [len(loads) for loads in found.values()] == [3, 3]
    assert len(in_turn(servers, [], rounds=2, seconds=60)["one"]) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_processor_time_is_what_a_process_computed():
    before, own = _processor(os.getpid()), time.process_time()
    while time.process_time() - own < 0.1:
        pass
    assert _processor(os.getpid()) - before >= 0.08
