"""Optional packages: without one, the library imports as ever and what needs it names the extra that brings it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_house import PROJECT

ROOT = Path(__file__).resolve().parents[1]

# In a process of its own the packages are made invisible to Python's search, as if they had not been installed.
WITHOUT = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name in BLOCKED else super().find_spec(name, path, target)

sys.meta_path = [Without if finder is PathFinder else finder for finder in sys.meta_path]
import seka_rag
from pathlib import Path
from seka_rag.errors import MissingExtraError

def message(call):
    try:
        call()
    except ImportError as error:
        assert isinstance(error, MissingExtraError), repr(error)
        print(error)
    else:
        print("nothing was raised")
"""

DOCUMENTS = """
from seka_rag.retrieval.documents import read_documents
Path("a.html").write_text("<p>Alec lives in Lyon.</p>")
Path("b.pdf").write_bytes(b"%PDF-1.4")
Path("c.txt").write_text("Alec lives in Lyon.")
assert read_documents("c.txt")
message(lambda: read_documents("a.html"))
message(lambda: read_documents("b.pdf"))
Path("d.txt").write_bytes("Gr\xfc\xdfe".encode("cp1252"))
message(lambda: read_documents("d.txt"))
"""

PLOTS = """
from rich.console import Console
from seka_rag.demo.run import run_demo
from seka_rag.views.banks import draw_bank, draw_routing
model = seka_rag.SteeredModel.from_pretrained("seka-demo")
message(lambda: draw_bank(model.bank, "bank.png"))
message(lambda: draw_routing([{"a": 1.0}], ["q"], "routing.png"))
message(lambda: run_demo(Console(), Path("demo.html"), 1))
message(lambda: model.chat([{"role": "user", "content": "Where?"}], max_new_tokens=1))
assert model.generate("Where does Alec live?", max_new_tokens=1).report.tokens_marked == 0  # plain text still works
"""

SERVER = """
import typer
from typer.testing import CliRunner
from seka_rag.cli import app
from seka_rag.server import create_app
message(lambda: create_app(seka_rag.SteeredModel.from_pretrained("seka-demo")))
print(" ".join(CliRunner().invoke(app, ["serve", "seka-demo"], env={"COLUMNS": "200"}).output.split()))
message(lambda: seka_rag.RemoteModel("http://127.0.0.1:1/v1"))
"""

CASES = {
    "documents": ("lxml pypdf charset_normalizer", DOCUMENTS, ["lxml", "pypdf", "charset-normalizer"]),
    "plots": ("matplotlib jinja2", PLOTS, ["matplotlib", "matplotlib", "jinja2", "jinja2"]),
    "server": ("starlette uvicorn httpx", SERVER, ["starlette", "uvicorn", "httpx"]),
    "structured": (
        "llguidance",
        "model = seka_rag.SteeredModel.from_pretrained('seka-demo')\n"
        "message(lambda: model.generate('Where?', json_schema=True, max_new_tokens=1))",
        ["llguidance"],
    ),
    "gguf": (
        "gguf",
        "Path('m.gguf').write_bytes(b'GGUF')\nmessage(lambda: seka_rag.SteeredModel.from_pretrained('m.gguf'))",
        ["gguf"],
    ),
    "langchain": ("langchain_core", "message(lambda: __import__('langchain_seka'))", ["langchain-core"]),
    "llamaindex": ("llama_index.core", "message(lambda: __import__('llama_index.llms.seka'))", ["llama-index-core"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("extra", CASES)
def test_without_its_packages_the_extra_is_named(extra, tmp_path):
    blocked, code, packages = CASES[extra]
    lines = _run(blocked, code, tmp_path)
    assert len(lines) == len(packages), lines
    for line, package in zip(lines, packages, strict=True):
        assert f"{package} is not installed. Install it with: pip install 'seka-rag[{extra}]'" in line


@pytest.mark.slow
def test_without_tenacity_the_client_names_it(tmp_path):
    lines = _run("tenacity", "message(lambda: seka_rag.RemoteModel('http://127.0.0.1:1/v1'))", tmp_path)
    assert lines == ["tenacity is not installed. Install it with: pip install 'seka-rag[server]'"]


def test_each_named_package_is_in_its_extra():
    extras = PROJECT["project"]["optional-dependencies"]
    extras = {name: [*needed, *_of_extras(needed, extras)] for name, needed in extras.items()}
    files = [p for room in ("seka_rag", "integrations") for p in (ROOT / room).rglob("*.py")]
    code = "".join(p.read_text(encoding="utf-8") for p in files)
    named = set(re.findall(r'MissingExtraError\("([\w-]+)", "(\w+)"\)', code))
    assert len(named) >= 9
    assert {extra for _, extra in named} <= set(CASES)
    for package, extra in named:
        assert any(re.match(rf"{package}[<>=]", needed) for needed in extras[extra]), (package, extra)


def test_every_extra_for_users_is_in_the_table_of_the_docs():
    extras = PROJECT["project"]["optional-dependencies"]
    table = re.findall(r"^\| `([\w-]+)` \|", (ROOT / "docs" / "index.md").read_text(encoding="utf-8"), re.M)
    assert set(table) == set(extras) - {"dev", "docs"}


def _of_extras(needed: list[str], extras: dict[str, list[str]]) -> list[str]:
    """What the extras of ours that are named there bring."""
    names = [name for one in needed if (named := re.match(r"seka-rag\[(.+)\]", one)) for name in named[1].split(",")]
    return [package for name in names for package in extras[name]]


def _run(blocked: str, code: str, folder: Path) -> list[str]:
    program = f"BLOCKED = {set(blocked.split())!r}\n{WITHOUT}{code}"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
