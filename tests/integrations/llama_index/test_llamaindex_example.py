"""The example runs as it stands, on the built-in model, and shows the contrast that it promises."""

from __future__ import annotations

import runpy
from pathlib import Path

from llama_index.core import Settings

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "llamaindex_rag.py"


def test_the_example_prints_answers_and_a_report(capsys, monkeypatch):
    monkeypatch.setattr(Settings, "_tokenizer", Settings.tokenizer)  # put back afterwards
    runpy.run_path(str(EXAMPLE))["main"]()
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert (lines["plain"].strip(), lines["steered"].strip(), lines["streamed"].strip()) == ("Dublin", "Lyon", "Lyon")
    assert "8 tokens" in lines["Seka with gain 0.5"]
    assert "from context_str" in lines["  highlighted"]
