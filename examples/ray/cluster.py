"""The cluster that the examples run on: the one of ``RAY_ADDRESS``, or two nodes on this machine that end with the script."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when ray starts

import ray
import ray.data
from ray.cluster_utils import Cluster

_NODE = {"num_cpus": 1, "object_store_memory": 2**27, "include_dashboard": False}


@contextmanager
def cluster(nodes: int = 2) -> Iterator[None]:
    """Connect to Ray. On this machine, each node has room for one copy of a model."""
    if "RAY_ADDRESS" in os.environ:
        with ray.init():
            yield
        return
    local = Cluster(initialize_head=True, head_node_args=_NODE)
    try:
        for _ in range(nodes - 1):
            local.add_node(**_NODE)
        local.wait_for_nodes()
        with ray.init(address=local.address, log_to_driver=False, logging_level="ERROR"):
            ray.data.DataContext.get_current().enable_progress_bars = False
            yield
    finally:
        local.shutdown()
