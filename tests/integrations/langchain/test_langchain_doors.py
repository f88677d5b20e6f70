"""The integration stands on the public door of seka_rag alone, and importing it changes nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import langchain_seka

import seka_rag
from seka_rag import frameworks

FILES = sorted(Path(langchain_seka.__file__).parent.glob("*.py"))


DOORS = {"seka_rag": seka_rag, "seka_rag.frameworks": frameworks}


def test_only_the_doors_of_seka_rag():
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            assert not [n for n in names if n.startswith("seka_rag.") and n not in DOORS], file.name
            if isinstance(node, ast.ImportFrom) and node.module in DOORS:
                assert {a.name for a in node.names} <= set(DOORS[node.module].__all__), file.name


def test_exports():
    assert all(hasattr(langchain_seka, name) for name in langchain_seka.__all__)


def test_import_installs_no_handler():
    """Only making a model does, and once."""
    code = (
        "from langchain_core.tracers import context; before = len(context._configure_hooks)\n"
        "import langchain_seka\n"
        "assert len(context._configure_hooks) == before\n"
        "for _ in range(3): langchain_seka.ChatSeka(model='x'); langchain_seka.SekaLLM(model='x')\n"
        "assert len(context._configure_hooks) == before + 1\n"
    )
    root = str(Path(langchain_seka.__file__).parents[1])
    subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r})\n{code}"], check=True)
