"""Fixtures: tiny random models of every family, a small bank, and the data folder beside the checkout, if it is there."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from real import load_smollm2
from tiny import KINDS, demo_tokenizer, random_bank, tiny_model

from seka_rag import SteeredModel

os.environ.pop("COLUMNS", None)  # pytest-xdist tells its processes 80, which would fix the width of consoles
os.environ.setdefault("SEKA_RAG_CACHE", str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "seka-rag"))
gc.disable()  # until all is imported, which makes millions of objects and no garbage
torch.set_num_threads(1)  # the tests run in several processes (-n in pyproject.toml)
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
TESTS = Path(__file__).resolve().parent
#: Folders whose tests have no framework, server, command or page in them: `make test-quick`, without what is marked slow.
QUICK = {"text", "ops", "hf", "bank", "steering", "learning", "highlight", "retrieval", "model"}
SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """``-m quick`` imports no other folder, and none of the frameworks that are tested there."""
    away = collection_path.parent == TESTS and collection_path.name not in QUICK
    return True if away and config.option.markexpr == "quick" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.relative_to(TESTS).parts[0] in QUICK and not {"slow", "real"} & {
            m.name for m in item.iter_markers()
        }:
            item.add_marker("quick")


def pytest_collection_finish() -> None:
    """What was imported stays: without this, every full collection of a test walks through all of it."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="module")
def cheap_collections():
    """Every manager of continuous batching collects garbage three times: not among what was imported since the collection."""
    gc.collect()
    gc.freeze()  # never undone, which would undo all of it


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real documents and data sets; not part of the project."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the data folder ../shared/data is not there")
    return SHARED / "data"


@pytest.fixture(scope="session")
def shared_parity() -> Path:
    """The texts from which the authors' code computed ``parity``; not part of the project."""
    if not (SHARED / "parity").is_dir():
        pytest.skip("the folder ../shared/parity is not there")
    return SHARED / "parity"


@pytest.fixture(scope="session")
def parity() -> Path:
    """A tiny model with the exact outputs of the authors' code."""
    return TESTS / "parity"


@pytest.fixture(scope="session")
def tokenizer():
    return demo_tokenizer()


@pytest.fixture(scope="session", params=KINDS)
def any_model(request):
    """One tiny random model of each kind of layout."""
    return tiny_model(request.param)


@pytest.fixture(scope="session")
def qwen3():
    return tiny_model("qwen3")


@pytest.fixture(scope="session")
def make_bank():
    return random_bank


@pytest.fixture(scope="session")
def steered(qwen3, tokenizer):
    """A tiny random model that is strongly steered: what it says is noise, but it depends on the highlights."""
    return SteeredModel(qwen3, tokenizer, bank=random_bank(qwen3), name="tiny")


@pytest.fixture(scope="session")
def smollm2():
    """SmolLM2-135M-Instruct in float32 and its tokenizer, without a bank; for tests marked ``real``."""
    return load_smollm2()
