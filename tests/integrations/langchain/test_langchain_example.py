"""The example runs as it stands, here with the tiny model in place of the demo."""

from __future__ import annotations

import runpy
from pathlib import Path

from seka_rag import SteeredModel

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "langchain_rag.py"


def test_it_runs(engine, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(SteeredModel, "from_pretrained", lambda name, **options: (asked.append(name), engine)[1])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    said = capsys.readouterr().out
    assert asked == ["seka-demo"]
    assert "Highlighted: [('note 0'," in said
    assert [line.split(":")[0] for line in said.splitlines()][:4] == ["Question", "Plain", "Steered", "Streamed"]
