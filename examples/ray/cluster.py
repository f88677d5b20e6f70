"""What the examples share: a cluster, which is that of ``RAY_ADDRESS`` or two nodes here, and work on copies of a model."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

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


def on_copies(
    kind: type, arguments: tuple[Any, ...], items: Iterable[Any], parts: int, copies: int
) -> ray.data.Dataset:
    """What ``kind(*arguments)`` returns for each part of the items.

    Args:
        kind: a class that loads a model. Each copy is made once, and called with ``{"item": [...]}`` for each of its parts.
        parts: how many; a part that is lost with its node is computed again by another copy.
        copies: how many at the same time.
    """
    rows = ray.data.from_items(list(items), override_num_blocks=parts)
    return rows.map_batches(
        kind,
        fn_constructor_args=arguments,
        batch_size=None,
        num_cpus=1,  # num_gpus=1 for a model on a GPU
        compute=ray.data.ActorPoolStrategy(size=copies),
    )
