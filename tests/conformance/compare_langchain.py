"""LangChain's standard tests for chat models, run on ChatSeka and on ChatHuggingFace: the figures of both side by side.

    python tests/conformance/compare_langchain.py

Both run the same built-in model, with everything declared: tools, a forced choice of tools, structured output, JSON mode.
Needs ``pip install langchain-huggingface`` for the peer; without it the peer is left out. No network is used.
"""

from __future__ import annotations

import collections
import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

SUITE = """
import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from seka_rag import SteeredModel

ENGINE = SteeredModel.from_pretrained("seka-demo")
FOLDER = ENGINE.tokenizer.name_or_path


class Declared:
    @property
    def chat_model_class(self):
        {make_class}

    @property
    def chat_model_params(self):
        {make_params}

    @property
    def supports_json_mode(self):
        return True

    @property
    def has_tool_choice(self):
        return True


class TestUnit(Declared, ChatModelUnitTests):
    pass


class TestIntegration(Declared, ChatModelIntegrationTests):
    pass
"""

OURS = (
    "from langchain_seka import ChatSeka; return ChatSeka",
    # the demo's model was never taught to end a string of JSON: lean towards its end, but not at its beginning
    'c, q = ENGINE.tokenizer.convert_tokens_to_ids([":", chr(34)]); lean = [[[q], 14.0], [[c, q, q], -28.0]]; '
    'return {"steered_model": ENGINE, "model": "seka-demo", "generate_kwargs": {"sequence_bias": lean}}',
)
PEER = (
    "from langchain_huggingface import ChatHuggingFace; return ChatHuggingFace",
    "from langchain_huggingface import HuggingFacePipeline; from transformers import pipeline; "
    'pipe = pipeline("text-generation", model=ENGINE.hf_model, tokenizer=ENGINE.tokenizer, max_new_tokens=100, '
    "return_full_text=False); "
    'return {"llm": HuggingFacePipeline(pipeline=pipe), "tokenizer": ENGINE.tokenizer, "model_id": FOLDER}',
)


class Counts:
    """Outcomes of tests, by name."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.nodeid.split("::", 1)[1]] = report.outcome


def run(make: tuple[str, str], name: str) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"test_{name}.py"
        path.write_text(SUITE.format(make_class=make[0], make_params=make[1]))
        counts = Counts()
        options = ["-q", "--no-header", "--tb=no", "-p", "no:cacheprovider", "--disable-socket", "--allow-unix-socket"]
        options += ["-o", "asyncio_mode=auto", "--rootdir", folder, "-W", "ignore"]
        pytest.main([str(path), *options], plugins=[counts])
    return counts.outcomes


def main() -> None:
    results = {"ChatSeka": run(OURS, "ours")}
    if importlib.util.find_spec("langchain_huggingface"):
        results["ChatHuggingFace"] = run(PEER, "peer")
    else:
        print("langchain-huggingface is not installed: the peer is left out", file=sys.stderr)
    for name, outcomes in results.items():
        n = collections.Counter(outcomes.values())
        print(f"\n{name}: {n['passed']} passed, {n['failed']} failed, {n['skipped']} skipped of {len(outcomes)}")
        for test in sorted(t for t, outcome in outcomes.items() if outcome == "failed"):
            print("  failed:", test)


if __name__ == "__main__":
    main()
