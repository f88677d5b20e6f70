"""The house: one public door, floors that a machine checks, import without side effects, a wheel with its model."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import seka_rag

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
#: The package of each framework, by its name: the folder with the ``py.typed``. vLLM's is an engine.
INTEGRATIONS = {
    ".".join(marker.parent.relative_to(ROOT / "integrations").parts[1:]): marker.parent.relative_to(ROOT)
    for marker in (ROOT / "integrations").rglob("py.typed")
}
DOORS = {"seka_rag", "seka_rag.views", *INTEGRATIONS}
#: Pages for those who measure or operate, not for users: they may name these rooms.
MEASURING = {
    "docs/how-to/questions.md": ("seka_rag.questions", "seka_rag.bench"),
    "docs/benchmarks/harness.md": ("seka_rag.bench",),
    "docs/how-to/ray.md": ("seka_rag.server",),
    "examples/ray/benchmark.py": ("seka_rag.bench",),
    "examples/ray/learning.py": ("seka_rag.hf.identity", "seka_rag.learning"),
    "examples/ray/serving.py": ("seka_rag.server",),
}
EXAMPLES = sorted([*(ROOT / "examples").glob("*.py"), *(ROOT / "examples" / "ray").glob("*.py")])
SOURCES = [*ROOT.glob("seka_rag/**/*.py"), *ROOT.glob("integrations/**/*.py")]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *EXAMPLES]


def test_the_public_door():
    """What it loads when it is asked is what type checkers are told; all of it is used, and nothing else is there."""
    tree = ast.parse((ROOT / "seka_rag" / "__init__.py").read_text())
    (typed,) = [node for node in tree.body if isinstance(node, ast.If)]
    imports = {node.module: tuple(sorted(a.name for a in node.names)) for node in typed.body}
    assert imports == {module: tuple(sorted(names)) for module, names in seka_rag._MODULES.items()}
    assert sorted(seka_rag.__all__) == sorted(name for names in imports.values() for name in names)
    assert set(seka_rag.__all__) <= set(dir(seka_rag))
    assert all(getattr(seka_rag, name).__doc__ for name in seka_rag.__all__)
    with pytest.raises(AttributeError, match="no attribute 'shared_model'"):
        getattr(seka_rag, "shared_model")  # noqa: B009
    shown = "".join(page.read_text(encoding="utf-8") for page in [*PAGES, ROOT / "CONTRIBUTING.md"])
    assert [name for name in seka_rag.__all__ if not re.search(rf"\b{name}\b", shown)] == []


@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in PAGES])
def test_pages_and_examples_import_from_the_doors_alone(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    code = [text] if page.endswith(".py") else re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    for block in code:
        for node in ast.walk(ast.parse(block)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            deep = [n for n in names if n not in DOORS and any(n.startswith(f"{door}.") for door in DOORS)]
            assert [n for n in deep if not n.startswith(MEASURING.get(page, ("-",)))] == []


@pytest.mark.parametrize("name", INTEGRATIONS)
def test_an_integration_is_listed_wherever_it_must_be(name):
    project, folder, package = PROJECT["tool"], *("/".join(INTEGRATIONS[name].parts[:n]) for n in (2, 3))
    linter, mypy, coverage = project["importlinter"], project["mypy"], project["coverage"]["run"]
    contracts = {c["name"]: c["source_modules"] for c in linter["contracts"] if "source_modules" in c}
    places = {
        "tool.hatch.build.targets.wheel packages": package in project["hatch"]["build"]["targets"]["wheel"]["packages"],
        "tool.importlinter root_packages": name in linter["root_packages"],
        "tool.mypy packages": name in mypy["packages"],
        "tool.mypy mypy_path": folder in mypy["mypy_path"].split(":"),
        "tool.coverage.run source": name in coverage["source"],
        "mkdocs.yml, paths of mkdocstrings": re.search(
            rf"paths: \[.*\b{folder}\b", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
        ),
        **{f"contract {c!r}": name in contracts[c] for c in contracts if "langchain_seka" in contracts[c]},
    }
    missing = [place for place, holds in places.items() if not holds]
    assert not missing, f"name {name} in " + "; ".join(missing)


def test_imports_only_go_down():
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "0 broken" in done.stdout, done.stdout


def test_the_table_of_floors_is_the_contract():
    contract = PROJECT["tool"]["importlinter"]["contracts"][0]
    table = re.search(
        r"^\| floor \| holds \|\n\|---\|---\|\n((?:\|.*\n)+)", (ROOT / "CONTRIBUTING.md").read_text(), re.M
    )
    floors = [" | ".join(re.findall(r"`(\w+)`", row.split("|")[1])) for row in table[1].splitlines()]
    assert floors == contract["layers"]


def test_every_decision_is_dated_and_in_the_index():
    folder = ROOT / "docs" / "decisions"
    notes = {p.name: p.read_text(encoding="utf-8").splitlines()[0] for p in folder.glob("*.md") if p.name != "index.md"}
    index = re.findall(r"^\* (\S+): \[(.+)\]\((.+)\)$", (folder / "index.md").read_text(encoding="utf-8"), re.M)
    assert {name: f"# {title}" for _, title, name in index} == notes
    assert all(name.startswith(f"{date}-") for date, _, name in index)
    assert [date for date, _, _ in index] == sorted(date for date, _, _ in index)


HEAVY = (
    "torch", "transformers", "huggingface_hub", "numpy", "pydantic", "httpx", "tenacity", "bm25s", "rich", "typer", "jinja2",
    "matplotlib", "langchain_core", "llama_index", "pypdf", "lxml", "llguidance", "starlette", "prometheus_client", "uvicorn",
    "gguf",
)  # fmt: skip


@pytest.mark.parametrize(
    ("code", "loads"),
    [
        ("import seka_rag", set()),
        ("from seka_rag import Passage, Prompt, SekaError, Sentences, Span, TopK, Trusted, TrustPolicy", set()),
        ("from seka_rag import BM25Retriever, read_documents", set()),
        ("from seka_rag.cli import app", {"pydantic", "rich", "typer"}),
        ("from seka_rag import Seka, SteeredModel, learn_bank", {"torch", "numpy", "pydantic"}),
    ],
)
def test_importing_is_light(code, loads):
    """Each name brings what it needs and nothing else."""
    code += f"; import sys; print(*(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= loads


def test_importing_changes_nothing():
    code = (
        "import torch; before = (torch.get_num_threads(), torch.is_grad_enabled(), torch.get_rng_state().tolist())\n"
        "from seka_rag import *\n"
        "assert before == (torch.get_num_threads(), torch.is_grad_enabled(), torch.get_rng_state().tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_namespace_packages_stay_open():
    above = ROOT / "integrations" / "llama_index" / "llama_index"
    assert not (above / "__init__.py").exists()
    assert not (above / "llms" / "__init__.py").exists()


def test_files_stay_small():
    long = {str(p.relative_to(ROOT)): n for p in SOURCES if (n := len(p.read_text().splitlines())) > 300}
    reasons = {
        "seka_rag/bank/projections.py": "one class: what a bank holds, from elsewhere and as files",
        "seka_rag/learning/domains.py": "lists of words",
    }
    assert set(long) <= set(reasons), long


def test_types_say_what_is_there():
    """``Any`` stands on fewer than 12 of 1,000 lines: it is for what a caller or a framework gives, and no type is known."""
    vague = total = 0
    for source in SOURCES:
        text = source.read_text(encoding="utf-8")
        imports = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import | ast.ImportFrom)]
        imported = {line for n in imports for line in range(n.lineno, n.end_lineno + 1)}
        lines = text.splitlines()
        total += len(lines)
        vague += sum(bool(re.search(r"\bAny\b", line)) for i, line in enumerate(lines, 1) if i not in imported)
    assert 1000 * vague / total < 12, f"{vague} of {total} lines"


def test_what_the_type_checker_is_not_to_see_has_a_reason():
    """Behind each ``type: ignore`` stands why; mypy reports one that is not needed."""
    found = [line.strip() for source in SOURCES for line in source.read_text(encoding="utf-8").splitlines()]
    assert [s for s in found if "# type: ignore" in s and not re.search(r"# type: ignore\[[\w, -]+\]  # \S", s)] == []
    assert PROJECT["tool"]["mypy"]["strict"]


def test_the_built_in_model_is_small():
    folder = ROOT / "seka_rag" / "demo"
    size = sum(p.stat().st_size for part in ("model", "bank") for p in (folder / part).rglob("*") if p.is_file())
    assert 0 < size < 12 * 2**20


@pytest.mark.parametrize(
    "name", ["README.md", "LICENSE", "NOTICE", "CHANGELOG.md", "CONTRIBUTING.md", "constraints.txt"]
)
def test_what_a_newcomer_looks_for_is_there(name):
    assert (ROOT / name).stat().st_size > 100
