"""The command: what it writes, what it refuses, and that a killed run ends like one that was not."""

import json
import signal
import subprocess
import sys

import pytest
from tiny import demo_tokenizer, random_bank, tiny_model
from typer.testing import CliRunner

from seka_rag.cli import app


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A tiny random model, a bank of it, and records."""
    folder = tmp_path_factory.mktemp("bench")
    model = tiny_model("qwen3")
    model.save_pretrained(folder / "model")
    demo_tokenizer().save_pretrained(folder / "model")
    random_bank(model).save(folder / "bank")
    lines = []
    for i, (city, other) in enumerate([("Lyon", "Oslo"), ("Lima", "Kyoto"), ("Porto", "Cairo")] * 12):
        passage = f"Ada moved to {city} last year."
        mark = {"passage": 0, "start": 0, "end": len(passage), "text": passage}
        record = {
            "id": str(i), "dataset": "d", "question": "Where does Ada live?", "passages": [passage, "Alan has a cat."],
            "gold_context_answer": [city], "parametric_answer": other, "highlights": [mark], "meta": {},
        }  # fmt: skip
        lines.append(json.dumps(record) + "\n")
    (folder / "records.jsonl").write_text("".join(lines))
    return folder


def arguments(files, out, *more):
    return [
        "bench", "conflict-rag", "--model", str(files / "model"), "--bank", str(files / "bank"), "--dtype", "float32",
        "--data", str(files / "records.jsonl"), "--methods", "seka,key-scaling", "--out", str(out), *more,
    ]  # fmt: skip


def run(args, code=0):
    result = CliRunner().invoke(app, args, env={"COLUMNS": "300", "TERM": "dumb"})
    assert result.exit_code == code, result.output + str(result.exception)
    return " ".join(result.output.split())


def test_rows_are_written_and_a_second_run_changes_nothing(files, tmp_path):
    run(arguments(files, tmp_path, "--limit", "3"))
    rows = json.loads((tmp_path / "results.json").read_text())
    assert {tuple(row) for row in rows} == {
        ("task", "model", "method", "settings", "metric", "n", "value", "low", "high")
    }
    assert {row["method"] for row in rows} == {"plain", "seka", "key-scaling"}
    plain = next(r for r in rows if r["method"] == "plain" and r["metric"] == "correction.kl")
    assert (plain["n"], plain["value"]) == (3, 0)
    steered = next(r for r in rows if r["settings"].get("gain") == 2.0 and r["metric"] == "correction.kl")
    assert steered["value"] > 0  # the edits took place
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    run(arguments(files, tmp_path, "--limit", "3"))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before
    assert "is of another run (items:" in run(arguments(files, tmp_path, "--limit", "2"), code=1)


def test_further_methods_join_those_of_an_earlier_run(files, tmp_path):
    few = ("--limit", "3", "--methods")
    run(arguments(files, tmp_path / "one", *few, "seka,key-scaling"))
    run(arguments(files, tmp_path / "two", *few, "seka"))
    run(arguments(files, tmp_path / "two", *few, "key-scaling"))
    for name in ("results.json", "comparisons.json", "tables.md"):
        assert (tmp_path / "two" / name).read_text() == (tmp_path / "one" / name).read_text()


def test_the_best_rows_are_compared_where_no_harm_is_measured_too(files, tmp_path):
    args = arguments(files, tmp_path, "--limit", "3", "--highlights", "gold")
    run([args[0], "lost-in-the-middle", *args[2:]])
    pairs = json.loads((tmp_path / "comparisons.json").read_text())
    between = [{c[k].split()[0] for k in ("first", "second")} for c in pairs if c["metric"] == "all.right"]
    assert between.count({"seka", "key-scaling"}) == 1


def test_a_file_is_asked_whole_unless_a_limit_is_given(files, tmp_path):
    """It has 36 records, and lost-in-the-middle takes 20 of our own questions."""
    few = ("--methods", "plain", "--highlights", "gold")
    for more, n in (((), 36), (("--limit", "5"), 5), (("--quick",), 2)):
        args = arguments(files, tmp_path / str(n), *few, *more)
        run([args[0], "lost-in-the-middle", *args[2:]])
        rows = json.loads((tmp_path / str(n) / "results.json").read_text())
        assert {r["n"] for r in rows if r["metric"] == "all.right"} == {n}


def test_records_without_highlights_are_for_highlighters(files, tmp_path):
    lines = [json.loads(line) for line in (files / "records.jsonl").read_text().splitlines()[:3]]
    missing = [
        {**r, "id": f"x{r['id']}", "highlights": [], "gold_context_answer": [], "parametric_answer": None}
        for r in lines
    ]
    paths = {name: tmp_path / f"{name}.jsonl" for name in ("mixed", "bare")}
    for path, records in zip(paths.values(), ([*lines, *missing], missing), strict=True):
        path.write_text("".join(json.dumps(r) + "\n" for r in records))

    def counts(out, *more):
        run(arguments(files, tmp_path / out, "--methods", "seka", *more))
        rows = json.loads((tmp_path / out / "results.json").read_text())
        return {
            (r["method"], r["metric"]): r["n"] for r in rows if r["metric"] in ("correction.kl", "abstention.right")
        }

    both = {("plain", "correction.kl"): 3, ("seka", "correction.kl"): 3}
    assert counts("gold", "--data", str(paths["mixed"])) == both
    assert counts("sentences", "--data", str(paths["mixed"]), "--highlights", "sentences") == {
        **both, ("plain", "abstention.right"): 3, ("seka", "abstention.right"): 3,
    }  # fmt: skip
    said = run(arguments(files, tmp_path / "bare", "--data", str(paths["bare"])), code=1)
    assert "no record has a highlight: leave 'gold' out, for example with --highlights sentences" in said


def test_damaged_results_are_named_before_anything_is_asked(files, tmp_path):
    (tmp_path / "results.json").write_text("{")
    assert f"{tmp_path}/results.json holds no results that can be read: remove it" in run(
        arguments(files, tmp_path, "--limit", "3"), code=1
    )
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


#: The command, killed after its tenth batch, in the middle of writing the next.
KILLED = """
import os, signal, sys
import torch
from seka_rag.bench.journal import Journal
from seka_rag.cli import app

torch.set_num_threads(1)
add, batches = Journal.add, []

def add_or_die(journal, *batch):
    batches.append(batch)
    add(journal, *batch)
    if len(batches) == 11:
        with open(journal.path, "r+b") as file:
            file.truncate(os.path.getsize(journal.path) - 7)
        os.kill(os.getpid(), signal.SIGKILL)

Journal.add = add_or_die
app(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_killed_run_ends_like_one_that_was_not(files, tmp_path):
    demo = ["--model", "seka-demo", "--bank", "auto", "--methods", "seka"]
    run(arguments(files, tmp_path / "whole", *demo))
    journal = tmp_path / "killed" / "conflict-rag.jsonl"
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments(files, tmp_path / "killed", *demo)], check=False)
    assert killed.returncode == -signal.SIGKILL
    whole = (tmp_path / "whole" / "conflict-rag.jsonl").read_bytes()
    left = journal.read_bytes()
    assert 0 < len(left) < len(whole)
    run(arguments(files, tmp_path / "killed", *demo))
    assert journal.read_bytes() == whole
    for name in ("results.json", "comparisons.json", "report.html", "tables.md"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--methods", "sekka"], "unknown method 'sekka': did you mean 'seka'?"),
        (["--highlights", "best"], "unknown highlight 'best'"),
        (["--split", "test"], "unknown split 'test'"),
        (["--dtype", "int8"], "unknown dtype 'int8'"),
        (["--model", "no/such/folder"], "no/such/folder"),
        (["--data", "missing.jsonl"], "cannot read missing.jsonl"),
    ],
)
def test_wrong_options_are_named(files, tmp_path, change, message):
    assert message in run([*arguments(files, tmp_path), *change], code=1)


def test_unknown_tasks_and_data_for_several(files, tmp_path):
    args = arguments(files, tmp_path)
    assert "unknown task 'conflictrag': did you mean 'conflict-rag'?" in run(
        [args[0], "conflictrag", *args[2:]], code=1
    )
    assert "--data is read by one task" in run([args[0], "counterfact", *args[1:]], code=1)


def test_a_malformed_record_is_named_with_line_and_field(files, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text((files / "records.jsonl").read_text().splitlines()[0] + '\n{"id": "x", "dataset": 3}\n')
    assert "bad.jsonl, line 2, dataset:" in run([*arguments(files, tmp_path / "o"), "--data", str(path)], code=1)
