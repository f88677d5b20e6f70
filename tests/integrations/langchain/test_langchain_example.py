"""The example runs as it stands, on the built-in model, and shows the contrast that it promises."""

from __future__ import annotations

import runpy
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "langchain_rag.py"


def test_it_runs(capsys):
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    said = [line.split(": ") for line in capsys.readouterr().out.splitlines()]
    lines = {name: rest[0].strip() for name, *rest in said}
    assert (lines["Plain"], lines["Steered"], lines["Streamed"]) == ("Dublin", "Lyon", "Lyon")
    assert lines["Highlighted"].startswith("[('note 0', 9, 38)")
