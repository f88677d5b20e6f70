"""Run the conformance suite on SekaLLM and on HuggingFaceLLM, with the same tiny model, and print both results.

    python tests/conformance/compare_llamaindex.py [--peer-python PYTHON] [--markdown FILE]

Without ``--peer-python`` it makes a virtual environment in a temporary folder and installs llama-index-llms-huggingface
there, which takes a while and some gigabytes. The suite's file is copied there; seka-rag is not.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent
SUITE = HERE / "llm_conformance.py"
PEER = """
import os
from llm_conformance import LLMConformance
from llama_index.llms.huggingface import HuggingFaceLLM

class TestHuggingFaceLLM(LLMConformance):
    limit_option = "max_new_tokens"

    def make(self, **settings):
        folder = os.environ["TINY_MODEL"]
        chosen = {"model_name": folder, "tokenizer_name": folder, "max_new_tokens": 12, "is_chat_model": True,
                  "context_window": 2048, "device_map": "cpu", "generate_kwargs": {"do_sample": False}}
        return HuggingFaceLLM(**{**chosen, **settings})

    def patch_generation(self, llm, monkeypatch, around):
        monkeypatch.setattr(llm._model, "generate", around(llm._model.generate))
"""
SETTINGS = (
    "import torch\ntorch.set_num_threads(1)\nfrom llama_index.core import Settings\nSettings.tokenizer = str.split\n"
)


def run_suite(python: str, folder: Path, tests: Path, environment: dict[str, str]) -> dict[str, str]:
    """Test -> "pass", "skip" or the first line of why not."""
    report = folder / "report.xml"
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", str(tests)]
    subprocess.run(command, cwd=folder, env={**os.environ, **environment}, check=False, stdout=subprocess.DEVNULL)
    results = {}
    for case in ElementTree.parse(report).iter("testcase"):
        wrong = next((case.find(kind) for kind in ("failure", "error") if case.find(kind) is not None), None)
        skipped = case.find("skipped") is not None
        reason = (wrong.get("message") or "").strip().split("\n")[0] if wrong is not None else ""
        results[case.get("name") or ""] = "skip" if skipped else f"fail: {reason}" if wrong is not None else "pass"
    return results


def by_group(results: dict[str, str]) -> dict[str, list[str]]:
    """Test without its parameter -> outcomes."""
    groups: dict[str, list[str]] = {}
    for name, outcome in results.items():
        groups.setdefault(re.sub(r"\[.*\]$", "", name).removeprefix("test_").replace("_", " "), []).append(outcome)
    return groups


def table(ours: dict[str, str], peers: dict[str, str], title: str) -> str:
    """Both results as Markdown, one line for each test; "3 of 8" where it has parameters."""

    def shown(outcomes: list[str]) -> str:
        passed = sum(o == "pass" for o in outcomes)
        if outcomes and passed == len(outcomes):
            return "yes" if passed == 1 else f"{passed} of {passed}"
        return "no" if len(outcomes) == 1 else f"{passed} of {len(outcomes)}"

    mine, other = by_group(ours), by_group(peers)
    lines = [title, "", "| test | SekaLLM | HuggingFaceLLM |", "|---|---|---|"]
    lines += [f"| {name} | {shown(mine[name])} | {shown(other.get(name, []))} |" for name in mine]
    totals = [f"{sum(o == 'pass' for o in r.values())} of {len(r)}" for r in (ours, peers)]
    return "\n".join([*lines, f"| **passed** | **{totals[0]}** | **{totals[1]}** |", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="an interpreter that has llama-index-llms-huggingface and pytest")
    parser.add_argument("--markdown", type=Path, help="write the table to this file, too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        python = arguments.peer_python
        if python is None:
            venv.create(folder / "venv", with_pip=True)
            python = str(folder / "venv" / "bin" / "python")
            subprocess.run([python, "-m", "pip", "install", "-q", "llama-index-llms-huggingface", "pytest"], check=True)
        from seka_rag import SteeredModel

        model = SteeredModel.from_pretrained("seka-demo")
        model.hf_model.save_pretrained(folder / "model")
        model.tokenizer.save_pretrained(folder / "model")
        for name in ("ours", "peer"):
            (folder / name).mkdir()
            (folder / name / "conftest.py").write_text(SETTINGS)
        tests = HERE.parent / "integrations" / "llama_index"
        shutil.copy(tests / "test_llamaindex_conformance.py", folder / "ours" / "test_ours.py")
        for name in ("ours", "peer"):
            shutil.copy(SUITE, folder / name / SUITE.name)
        (folder / "peer" / "test_peer.py").write_text(PEER)
        ours = run_suite(sys.executable, folder / "ours", folder / "ours" / "test_ours.py", {})
        peer_environment = {"TINY_MODEL": str(folder / "model"), "PYTHONPATH": ""}
        peers = run_suite(python, folder / "peer", folder / "peer" / "test_peer.py", peer_environment)
        asked = "from importlib.metadata import version as v; print(v('llama-index-llms-huggingface'), v('llama-index-core'))"
        peer, core = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.split()
    title = (
        f"Measured {datetime.date.today()} with the model of `seka-demo` for both: seka-rag {version('seka-rag')} on "
        f"llama-index-core {version('llama-index-core')}, llama-index-llms-huggingface {peer} on llama-index-core {core}."
    )
    text = table(ours, peers, title)
    print(text)
    for name, results in (("SekaLLM", ours), ("HuggingFaceLLM", peers)):
        for test, outcome in results.items():
            if outcome.startswith("fail"):
                print(f"{name}  {test}: {outcome[6:150]}")
    if arguments.markdown:
        arguments.markdown.write_text(text)


if __name__ == "__main__":
    main()
