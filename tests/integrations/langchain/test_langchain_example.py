"""The examples run as they stand, on the built-in model, and show what they promise."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


@pytest.fixture
def said(capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def run(name):
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_before_and_after(said):
    lines = [line.split(": ") for line in said("langchain_rag.py").splitlines()]
    lines = {name: rest[0].strip() for name, *rest in lines}
    assert (lines["Plain"], lines["Steered"], lines["Streamed"]) == ("Dublin", "Lyon", "Lyon")
    assert lines["Highlighted"].startswith("[('note 0', 9, 38)")


def test_chat(said):
    answers = re.findall(r"Model: (\w+) +\(highlighted: (.*)\)", said("langchain_chat.py"))
    assert answers == [("Lyon", "note 0"), ("Vienna", "note 1")]


def test_agent(said):
    out = said("langchain_agent.py")
    person = re.search(r"look_up\({'person': '(\w+)'}\)", out)[1]
    note = ["Alec", "Greta", "Hugo", "Felix"].index(person)
    assert re.search(rf"Highlighted: \[\('note {note}', 0, \d+\)\]", out)


def test_structured(said):
    out = said("langchain_structured.py")
    assert re.search(r"city='(Lyon|Vienna|Lisbon|Dublin)' notes=\[[0-3](, [0-3])?\]", out)
    assert "Highlighted: ['0']" in out
