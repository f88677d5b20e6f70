"""Outcomes on disk: what a kill leaves, and what is refused."""

import json

import pytest

from seka_rag.bench.journal import Journal
from seka_rag.errors import RecordError, SettingError

BATCHES = [["a", "b"], ["c"]]


def fill(path, stop=None):
    journal = Journal(path, {"task": "t"}, BATCHES)
    for i, batch in enumerate(BATCHES):
        for variant in ("plain", "seka"):
            if stop is not None and (i, variant) == stop:
                return journal
            if not journal.has(variant, batch):
                journal.add(variant, batch, [{"right": name != "b", "text": f"{name} é"} for name in batch])
    return journal


def test_a_run_that_was_cut_anywhere_ends_with_the_same_file(tmp_path):
    whole = fill(tmp_path / "whole.jsonl")
    content = (tmp_path / "whole.jsonl").read_bytes()
    assert whole.outcomes["seka", "b"] == {"right": False, "text": "b é"}
    for length in range(len(content) + 1):
        cut = tmp_path / "cut.jsonl"
        cut.write_bytes(content[:length])
        assert fill(cut).outcomes == whole.outcomes
        assert cut.read_bytes() == content, length


def test_what_is_done_is_not_done_again(tmp_path):
    fill(tmp_path / "t.jsonl", stop=(1, "seka"))
    journal = Journal(tmp_path / "t.jsonl", {"task": "t"}, BATCHES)
    assert journal.has("seka", ["a", "b"])
    assert journal.has("plain", ["c"])
    assert not journal.has("seka", ["c"])


def test_other_runs_are_refused_with_what_differs(tmp_path):
    fill(tmp_path / "t.jsonl")
    with pytest.raises(SettingError, match=r"t.jsonl is of another run \(task: 't', now 'u'\): give another --out"):
        Journal(tmp_path / "t.jsonl", {"task": "u"}, BATCHES)
    (tmp_path / "x.jsonl").write_text("hello\n")
    with pytest.raises(SettingError, match="its first line is not one of ours"):
        Journal(tmp_path / "x.jsonl", {"task": "u"}, BATCHES)


@pytest.mark.parametrize("line", ["{", "[]", '{"id": "a"}', '{"variant": "plain", "id": "z"}'])
def test_a_line_that_is_no_outcome_is_named(tmp_path, line):
    path = tmp_path / "t.jsonl"
    Journal(path, {"task": "t"}, BATCHES)
    with open(path, "a") as file:
        file.write(line + "\n")
    with pytest.raises(RecordError, match=r"t.jsonl, line 2: no outcome"):
        Journal(path, {"task": "t"}, BATCHES)


def test_a_batch_that_was_mixed_up_is_named(tmp_path):
    path = tmp_path / "t.jsonl"
    Journal(path, {"task": "t"}, BATCHES)
    with open(path, "a") as file:
        for name in ("a", "c"):
            file.write(json.dumps({"variant": "plain", "id": name}) + "\n")
    with pytest.raises(RecordError, match=r"line 3: a batch before it is not complete"):
        Journal(path, {"task": "t"}, BATCHES)
