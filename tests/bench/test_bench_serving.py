"""The benchmark of serving: its requests are marked where they say, and its table is arithmetic."""

import os
import sys
import time

import pytest

from seka_rag.bench.serving import Load, _processor, requests, table


def test_every_client_highlights_the_sentence_that_answers_it():
    bodies = requests(7, 4, 5)
    for body in bodies:
        (message,), (span,) = body["messages"], body["seka"]["spans"]
        marked = message["content"][span["start"] : span["end"]]
        name = message["content"].split("home of ")[-1].rstrip("?")
        assert marked.startswith(f"The home of {name} is in ")
        assert body["max_tokens"] == 5
    assert len({str(body["messages"]) for body in bodies}) == 7


def test_the_table_compares_with_the_first_way():
    plain = [Load(10.0, 4.0, (5.0, 10.0), 20, 1.0, ("a", "b")), Load(20.0, 8.0, (10.0, 20.0), 40, 1.0, ("a", "b"))]
    batch = [Load(5.0, 1.0, (4.0, 5.0), 20, 2.0, ("a", "c"))]
    head, _, *rows = table({"one": plain, "batch": batch})
    assert head.startswith("| | seconds | tokens per second | throughput | processor time per token |")
    assert rows == [
        "| one | 15.00 | 2.0 | 1.00 | 200 ms | 11.25 s | 15.00 s | 1.0 | 4 of 4 |",
        "| batch | 5.00 | 4.0 | 2.00 | 50 ms | 4.50 s | 5.00 s | 2.0 | 1 of 2 |",
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_processor_time_is_what_a_process_computed():
    before, own = _processor(os.getpid()), time.process_time()
    while time.process_time() - own < 0.1:
        pass
    assert _processor(os.getpid()) - before >= 0.08
