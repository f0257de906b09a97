"""What a cluster of `ray up` has when its autoscaler has started all that it may.

    nodes, growth = nodes_with_growth(progress)

Such a cluster begins with its head alone, which trains nothing. The configuration of its autoscaler lies on the head.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import yaml

from dim_ray.distributed.cluster.placement import HEAD, Growth, Node
from dim_ray.progress import Progress

__all__ = ["first_nodes", "nodes_with_growth", "possible_growth"]

_CONFIGURATION = "ray_bootstrap_config.yaml"  # in the home folder, where Ray's launcher puts it
_FIRST_NODES_SECONDS = 120.0
_POLL_SECONDS = 1.0

log = logging.getLogger(__name__)


def nodes_with_growth(progress: Progress) -> tuple[list[Node], Growth | None]:
    """Returns the nodes of the cluster that was joined, once its first ones are there, and those that there may be.

    Args:
        progress: Is told what is waited for.
    """
    config = _autoscaler_config()
    if config is not None:
        _wait_for_nodes(first_nodes(config), progress)
    present: list[Node] = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    growth = None if config is None else possible_growth(config, present)
    if growth and len(present) <= growth.max_workers:  # one of them is the head
        progress.message("the cluster starts nodes as they are needed, which takes minutes where it has too few")
    return present, growth


def first_nodes(config: Mapping[str, Any]) -> int:
    """Returns how many nodes an autoscaler starts unasked, with the head.

    Args:
        config: Of the autoscaler.
    """
    return 1 + sum(int(node.get("min_workers", 0)) for node in config["available_node_types"].values())


def possible_growth(config: Mapping[str, Any], present: Sequence[Node]) -> Growth:
    """Returns the nodes that an autoscaler may have at a time.

    Args:
        config: Of the autoscaler.
        present: The nodes that are there, the head among them.
    """
    most = int(config["max_workers"])
    types = [node for name, node in config["available_node_types"].items() if name != config["head_node_type"]]
    workers = [node["resources"] for node in types for _ in range(min(int(node["max_workers"]), most))]
    head = next((node for node in present if HEAD in node), {})
    return Growth(head=head, workers=workers, max_workers=min(most, len(workers)))


def _autoscaler_config() -> dict[str, Any] | None:
    """Returns the configuration of this cluster's autoscaler, or None where this isn't the head of one."""
    path = Path.home() / _CONFIGURATION
    head, _, _ = ray.get_runtime_context().gcs_address.rpartition(":")
    if head != ray.util.get_node_ip_address() or not path.exists():
        return None
    return dict(yaml.safe_load(path.read_text()))


def _wait_for_nodes(count: int, progress: Progress) -> None:
    """Waits a while for the nodes that an autoscaler starts unasked."""
    until = time.monotonic() + _FIRST_NODES_SECONDS
    said = None
    while (alive := sum(node["Alive"] for node in ray.nodes())) < count and time.monotonic() < until:
        if alive != said:
            said = alive
            progress.message(f"waiting for the cluster's first nodes: {alive} of {count} are there")
        time.sleep(_POLL_SECONDS)
