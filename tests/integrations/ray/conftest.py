"""Tests of the examples of Ray. They run where Ray is installed: ``make test-ray``."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "ray"
# a busy machine is no dead node
PATIENCE = {
    "RAY_raylet_start_wait_time_s": "600",
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_health_check_timeout_ms": "120000",
    "RAY_health_check_initial_delay_ms": "60000",
    "RAY_gcs_server_request_timeout_seconds": "300",
}


def pytest_collection_modifyitems(items):
    if find_spec("ray") is None:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="ray is not installed: make test-ray"))


@pytest.fixture(scope="session")
def two_nodes():
    """A cluster of two nodes on this machine, whose processes find the examples."""
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(EXAMPLES), *([path] if path else [])])
    sys.path.insert(0, str(EXAMPLES))
    from cluster import cluster

    with cluster():
        yield
    sys.path.remove(str(EXAMPLES))
    if path is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = path
