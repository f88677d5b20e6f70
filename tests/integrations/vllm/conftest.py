"""Tests of the plugin for vLLM. Those with an engine run where vLLM is installed: ``make test-vllm``."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

if find_spec("vllm") is None:
    collect_ignore = [f"test_vllm_{name}.py" for name in ("modes", "engine", "smollm2", "http", "precision")]
else:
    from vllm_engines import use_this_process

    use_this_process()


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory):
    """Its folder, the model of transformers and the bank."""
    from vllm_engines import save_tiny

    folder = tmp_path_factory.mktemp("llama")
    return folder, *save_tiny(folder, "llama")
