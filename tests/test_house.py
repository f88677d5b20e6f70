"""The house: one public door, floors that a machine checks, import without side effects, a wheel with its model."""

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


def test_the_public_door():
    assert set(seka_rag.__all__) == {
        "AdaSeka",
        "ContrastiveTriple",
        "ExpertBank",
        "Generation",
        "Highlighter",
        "InvalidToolCall",
        "KeyBias",
        "KeyEditing",
        "KeyScaling",
        "KeyVector",
        "Passage",
        "Placement",
        "ProjectionBank",
        "Prompt",
        "RandomProjection",
        "RemoteModel",
        "Seka",
        "SekaError",
        "Span",
        "SteeredModel",
        "SteeringMethod",
        "SteeringReport",
        "ToolCall",
        "as_highlighter",
        "as_passage",
        "as_steering",
        "bank_name",
        "calibrate",
        "check_spans",
        "choose_spans",
        "highlighting",
        "learn_bank",
        "learn_experts",
        "load_bank",
        "locate_values",
        "open_highlighting",
        "register",
        "route",
        "shared_model",
        "steer",
        "steering_as_dict",
    }
    assert all(hasattr(seka_rag, name) for name in seka_rag.__all__)
    assert all(getattr(seka_rag, name).__doc__ for name in seka_rag.__all__)


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


def test_importing_changes_nothing_and_loads_torch_alone():
    code = (
        "import sys, torch; before = (torch.get_num_threads(), torch.is_grad_enabled(), torch.get_rng_state().tolist())\n"
        "import seka_rag\n"
        "assert before == (torch.get_num_threads(), torch.is_grad_enabled(), torch.get_rng_state().tolist())\n"
        "later = ('transformers', 'huggingface_hub', 'httpx', 'tenacity', 'bm25s', 'rich', 'typer', 'jinja2', 'matplotlib')\n"
        "optional = ('langchain_core', 'llama_index', 'pypdf', 'bs4', 'llguidance', 'starlette', 'prometheus_client')\n"
        "optional += ('uvicorn', 'gguf')\n"
        "loaded = [m for m in later + optional if m in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_namespace_packages_stay_open():
    above = ROOT / "integrations" / "llama_index" / "llama_index"
    assert not (above / "__init__.py").exists()
    assert not (above / "llms" / "__init__.py").exists()


def test_files_stay_small():
    long = {
        str(p.relative_to(ROOT)): n
        for p in [*ROOT.glob("seka_rag/**/*.py"), *ROOT.glob("integrations/**/*.py")]
        if (n := len(p.read_text().splitlines())) > 300
    }
    reasons = {
        "seka_rag/bank/projections.py": "one class: what a bank holds, from elsewhere and as files",
        "seka_rag/learning/domains.py": "lists of words",
        "integrations/llama_index/llama_index/llms/seka/conformance.py": "one file that other integrations can copy",
    }
    assert set(long) <= set(reasons), long


def test_the_built_in_model_is_small():
    folder = ROOT / "seka_rag" / "demo"
    size = sum(p.stat().st_size for part in ("model", "bank") for p in (folder / part).rglob("*") if p.is_file())
    assert 0 < size < 12 * 2**20


@pytest.mark.parametrize(
    "name", ["README.md", "LICENSE", "NOTICE", "CHANGELOG.md", "CONTRIBUTING.md", "constraints.txt"]
)
def test_what_a_newcomer_looks_for_is_there(name):
    assert (ROOT / name).stat().st_size > 100
