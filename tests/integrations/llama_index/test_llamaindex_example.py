"""The examples run as they stand, on the built-in model, and show the contrast that they promise."""

from __future__ import annotations

import asyncio
import runpy
from pathlib import Path

import pytest
from llama_index.core import Settings

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


@pytest.fixture(autouse=True)
def _put_back(monkeypatch):
    monkeypatch.setattr(Settings, "_tokenizer", Settings.tokenizer)


def said(capsys) -> dict[str, str]:
    lines = (line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    return {name.strip(): text.strip() for name, text in lines}


def test_query_engine(capsys):
    runpy.run_path(str(EXAMPLES / "llamaindex_rag.py"))["main"]()
    lines = said(capsys)
    assert (lines["plain"], lines["steered"], lines["streamed"]) == ("Dublin", "Lyon", "Lyon")
    assert "8 tokens" in lines["Seka with gain 0.5"]
    assert "from harbour.txt" in lines["highlighted"]


def test_chat_engine(capsys, tmp_path):
    runpy.run_path(str(EXAMPLES / "llamaindex_chat.py"))["main"](str(tmp_path / "page.html"))
    lines = said(capsys)
    assert (lines["chat"], lines["streamed"], lines["async"]) == ("Lyon", "Lyon", "Lyon")
    assert "from handbook/people.txt" in lines["highlighted"]
    page = (tmp_path / "page.html").read_text()
    assert page.count("<mark") == 1
    assert ">The home of Alec is in Lyon.</mark>" in page
    assert "Quito" in page


def test_agent(capsys):
    asyncio.run(runpy.run_path(str(EXAMPLES / "llamaindex_agent.py"))["main"]())
    lines = said(capsys)
    assert lines["called"] == "people {}"
    assert lines["highlighted"] == "['people'], 8 tokens edited"
    assert lines["answer"]
