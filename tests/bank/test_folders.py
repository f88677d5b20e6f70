"""Saving a folder: at every moment, for every reader, however it ends, there are the old files or the new ones."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from seka_rag import ExpertBank, ProjectionBank
from seka_rag.bank.folders import check_target, holds, read_folder, write_file, write_folder
from seka_rag.errors import BankError

OLD = {"top.json": b"old", "part/a.bin": b"old" * 1000}
NEW = {"top.json": b"new", "part/a.bin": b"new" * 2000, "part/b.bin": b"new"}
#: Runs in a process of its own: a child for every step of a save, which ends at that step.
STEPS = """
import errno, os, signal, sys
from pathlib import Path
from seka_rag.bank.folders import write_folder
from tests.bank.test_folders import NEW, OLD

folder, how = Path(sys.argv[1]), sys.argv[2]
WATCHED = {"open", "os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir"}


def save(stop_at):
    count = 0

    def watch(event, arguments):
        nonlocal count
        if event in WATCHED and (event != "open" or str(arguments[0]).startswith(str(folder))):
            count += 1
            if count == stop_at and how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            makes = event in {"os.mkdir", "os.link"} or (event == "open" and arguments[2] & os.O_CREAT)
            if count >= stop_at and how == "full" and makes:
                raise OSError(errno.ENOSPC, "No space left on device")

    sys.addaudithook(watch)
    write_folder(folder, NEW)


for step in range(1, 200):
    if how == "kill":
        write_folder(folder, {**OLD, "part/b.bin": b"old"})
    child = os.fork()
    if child == 0:
        try:
            save(step)
        except BaseException as error:
            print(type(error).__name__, error, flush=True)
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print("step", step, status, flush=True)
    sys.stdin.readline()  # the test looks at what is there
    if status == 0:
        break
"""
posix = pytest.mark.skipif(sys.platform == "win32", reason="processes are forked and killed")


def run_steps(folder, how, look):
    """How each step ended, and its messages; ``look`` is called in between."""
    ended, said = [], []
    command = [sys.executable, "-c", STEPS, str(folder), how]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as process:
        for line in process.stdout:
            if line.startswith("step "):
                ended.append(int(line.split()[2]))
                look()
                process.stdin.write("\n")
                process.stdin.flush()
            else:
                said.append(line.strip())
    assert process.returncode == 0
    return ended, said


@pytest.mark.slow
@posix
def test_a_kill_at_any_step_leaves_the_old_or_the_new(tmp_path):
    folder, seen = tmp_path / "bank", []
    old = {**OLD, "part/b.bin": b"old"}
    ended, _ = run_steps(folder, "kill", lambda: seen.append(read_folder(folder, NEW)))
    assert ended[:-1] == [-signal.SIGKILL] * (len(ended) - 1)
    assert len(ended) > 15
    assert ended[-1] == 0
    assert all(found in (old, NEW) for found in seen)
    assert [found == NEW for found in seen] == sorted(found == NEW for found in seen)  # first the old, then the new
    assert seen[0] == old
    # what the killed ones left is gone after one whole save
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.bin", "b.bin", "bank", "part", "top.json"]
    assert {name: (folder / name).read_bytes() for name in NEW} == NEW


@posix
def test_a_disk_that_is_full_at_any_step_is_an_error_and_leaves_the_old(tmp_path):
    folder, seen = tmp_path / "bank", []
    old = {**OLD, "part/b.bin": b"old"}
    write_folder(folder, old)
    ended, said = run_steps(folder, "full", lambda: seen.append((read_folder(folder, NEW), holds(folder, ".part"))))
    assert ended[-1] == 0
    assert all("BankError" in line and "No space left on device; nothing was changed" in line for line in said)
    failed = [state for state, end in zip(seen, ended, strict=True) if end]
    assert failed
    assert all(state == (old, False) for state in failed)
    assert seen[-1][0] == NEW  # committed, though there was no room to tidy up


@posix
def test_a_disk_that_fills_up_inside_a_file(tmp_path):
    folder = tmp_path / "bank"
    write_folder(folder, OLD)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limit[1]))
        with pytest.raises(BankError, match="File too large; nothing was changed"):
            write_folder(folder, {"top.json": b"new", "part/a.bin": b"new" * 2000})
        with pytest.raises(BankError, match="File too large"):
            write_folder(tmp_path / "new", {"a": b"x" * 4000})
        with pytest.raises(BankError, match="File too large"):
            write_file(tmp_path / "one", b"x" * 4000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert read_folder(folder, OLD) == OLD
    assert [p.name for p in tmp_path.iterdir()] == ["bank"]
    assert sorted(p.name for p in folder.rglob("*")) == ["a.bin", "part", "top.json"]


def test_a_folder_that_may_not_be_written_is_named_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(BankError, match=r"new cannot be written: no permission to write in .*; give another folder"):
        check_target(tmp_path / "deep" / "new", ["a"])

    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.undo()
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(BankError, match="Read-only file system; nothing was changed"):
        write_folder(tmp_path / "new", {"a": b""})
    assert not (tmp_path / "new").exists()


def test_a_failed_first_save_leaves_no_folder(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(BankError, match="Input/output error"):
        write_folder(tmp_path / "new", {"a": b"1"})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty").mkdir()
    with pytest.raises(BankError, match="Input/output error"):
        write_folder(tmp_path / "empty", {"a": b"1"})
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]  # it was there before


def test_without_hard_links_files_are_copied(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    write_folder(tmp_path / "x", OLD)
    assert {name: (tmp_path / "x" / name).read_bytes() for name in OLD} == OLD


def contend(save, load, times=80):
    """Two threads that save and three that read; what went wrong."""
    wrong, done = [], threading.Event()

    def work(what, times):
        for i in range(times):
            try:
                what(i)
            except Exception as error:
                wrong.append(error)

    def read():
        while not done.is_set():
            work(lambda _: load(), 1)

    writers = [threading.Thread(target=work, args=(save, times)) for _ in range(2)]
    readers = [threading.Thread(target=read) for _ in range(3)]
    for thread in writers + readers:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()
    return wrong


@pytest.mark.slow
def test_readers_and_writers_at_the_same_time(tmp_path):
    versions = [{"a.json": bytes([i]) * 10, "b.bin": bytes([i]) * 5000} for i in range(4)]
    write_folder(tmp_path / "x", versions[0])

    def load():
        assert read_folder(tmp_path / "x", ["a.json", "b.bin"]) in versions

    assert contend(lambda i: write_folder(tmp_path / "x", versions[i % 4]), load) == []
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["a.json", "b.bin"]


@pytest.mark.slow
@posix
def test_writers_of_other_processes(tmp_path):
    code = (
        "import sys; from seka_rag.bank.folders import read_folder, write_folder; from pathlib import Path\n"
        "path = Path(sys.argv[1])\n"
        "for i in range(25):\n"
        "    write_folder(path, {'a': bytes([i]) * 9, 'b': bytes([i]) * 999})\n"
        "    found = read_folder(path, ['a', 'b'])\n"
        "    assert len({*found['a'], *found['b']}) == 1, found\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "x")]) for _ in range(3)]
    assert [process.wait(timeout=200) for process in running] == [0, 0, 0]


@pytest.mark.slow
def test_banks_and_experts_are_saved_under_readers(tmp_path, qwen3, make_bank):
    banks = [make_bank(qwen3, seed=i) for i in range(2)]
    digests = {bank.digest for bank in banks}
    banks[0].save(tmp_path / "bank")

    def load():
        assert ProjectionBank.load(tmp_path / "bank").digest in digests

    assert contend(lambda i: banks[i % 2].save(tmp_path / "bank"), load, 40) == []
    experts = [ExpertBank({"one": a, "two": b}) for a, b in (banks, reversed(banks))]
    experts[0].save(tmp_path / "experts")

    def load_experts():
        assert ExpertBank.load(tmp_path / "experts").digest in {e.digest for e in experts}

    assert contend(lambda i: experts[i % 2].save(tmp_path / "experts"), load_experts, 30) == []


@posix
def test_a_bank_committed_and_not_yet_in_place_is_loaded(tmp_path, qwen3, make_bank):
    """As a killed save leaves it."""
    bank = make_bank(qwen3)
    ExpertBank({"one": bank}).save(tmp_path / "x")
    (tmp_path / "y").mkdir()
    (tmp_path / "x").rename(tmp_path / "y" / ".next")
    from seka_rag import load_bank

    assert load_bank(tmp_path / "y")["one"].digest == bank.digest
    ExpertBank({"one": bank}).save(tmp_path / "y")
    assert sorted(p.name for p in (tmp_path / "y").iterdir()) == ["experts.json", "one"]
