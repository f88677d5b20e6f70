"""``serve --backend vllm``: what it starts, and what it refuses. vLLM is not needed; the server itself is tested with it."""

import os
import sys
from importlib.machinery import ModuleSpec

import pytest
from typer.testing import CliRunner

from seka_rag.cli import app


@pytest.fixture
def started(monkeypatch):
    """What the command becomes: its arguments and its environment."""
    monkeypatch.setattr(sys.modules["seka_rag.cli.serve"], "find_spec", lambda name: ModuleSpec(name, None))
    calls = []
    monkeypatch.setattr(os, "execve", lambda path, arguments, environment: calls.append((path, arguments, environment)))
    return calls


def run(*arguments, code=0, **environment):
    result = CliRunner().invoke(app, ["serve", *arguments], env={"COLUMNS": "300", "TERM": "dumb", **environment})
    assert result.exit_code == code, result.output + str(result.exception)
    return " ".join(result.output.split())


def test_it_becomes_the_command_of_the_plugin(started):
    shown = run(
        "my-model",
        "--backend",
        "vllm",
        "--bank",
        "my-bank/",
        "--port",
        "9000",
        "--",
        "--dtype",
        "float32",
        SEKA_API_KEY="a-key",
    )
    assert shown == ""
    ((path, arguments, environment),) = started
    assert path == sys.executable
    assert arguments == [
        sys.executable, "-m", "seka_vllm.launch", "my-model", "my-bank/",
        "--host", "127.0.0.1", "--port", "9000", "--served-model-name", "my-model", "--dtype", "float32",
    ]  # fmt: skip
    assert environment["VLLM_API_KEY"] == "a-key"  # where nobody reads it in a list of processes
    assert environment["PATH"] == os.environ["PATH"]


def test_without_a_key_an_open_address_is_warned_of(started):
    shown = run("my-model", "--backend", "vllm", "--host", "0.0.0.0", "--served-model-name", "house")
    assert "no key is set" in shown
    ((_, arguments, environment),) = started
    assert arguments[-1] == "house"
    assert "VLLM_API_KEY" not in environment


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "vllm", "--max-queue", "3", "--log-json"], "--log-json, --max-queue: not with --backend vllm"),
        (["--", "--dtype", "float32"], "--dtype float32: these are options of vLLM, and --backend vllm is not set"),
    ],
)
def test_options_without_effect_are_refused(started, arguments, message):
    assert message in run("my-model", *arguments, code=1)
    assert not started


def test_without_vllm_it_says_what_it_needs(started, monkeypatch):
    monkeypatch.setattr(sys.modules["seka_rag.cli.serve"], "find_spec", lambda name: None)
    assert "needs vLLM 0.32 in this environment" in run("my-model", "--backend", "vllm", code=1)
    assert not started
