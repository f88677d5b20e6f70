"""The example runs."""

from __future__ import annotations

import runpy
from pathlib import Path

from llama_index.core import Settings
from llama_index.llms.seka import SekaLLM

from seka_rag import Seka

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "llamaindex_rag.py"


def test_the_example_prints_answers_and_a_report(engine, capsys, monkeypatch):
    monkeypatch.setattr(Settings, "_tokenizer", Settings.tokenizer)  # put back afterwards
    runpy.run_path(str(EXAMPLE))["main"](SekaLLM(steered_model=engine, steering=Seka(gain=60.0), max_tokens=4))
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["plain"].strip() != lines["steered"].strip() == lines["streamed"].strip()
    assert "12 tokens" in lines["Seka with gain 60"]
    assert "from context_str" in lines["  highlighted"]
