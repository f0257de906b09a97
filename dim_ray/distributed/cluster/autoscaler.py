"""Nodes of a cluster of `ray up`, including those that its autoscaler may still start.

    nodes, growth = nodes_with_growth(progress)

Such a cluster begins with only its head, which trains nothing. The autoscaler's configuration lies on the head.
"""

from __future__ import annotations

import os
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


def nodes_with_growth(progress: Progress) -> tuple[list[Node], Growth | None]:
    """Wait for the first nodes of the joined cluster, and return its nodes and those that may still start."""
    config = _autoscaler_config()
    if config is not None:
        _wait_for_nodes(first_nodes(config), progress)
    present: list[Node] = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    growth = None if config is None else possible_growth(config, present)
    if growth and len(present) <= growth.max_workers:  # one of them is the head
        progress.message("the cluster starts nodes as they are needed, which takes minutes where it has too few")
    return present, growth


def first_nodes(config: Mapping[str, Any]) -> int:
    """Return how many nodes an autoscaler of this configuration starts unasked, the head included."""
    return 1 + sum(int(node.get("min_workers", 0)) for node in config["available_node_types"].values())


def possible_growth(config: Mapping[str, Any], present: Sequence[Node]) -> Growth:
    """Return the nodes that an autoscaler of this configuration may run at a time, with the head of those present."""
    most = int(config["max_workers"])
    types = [node for name, node in config["available_node_types"].items() if name != config["head_node_type"]]
    workers = [node["resources"] for node in types for _ in range(min(int(node["max_workers"]), most))]
    head = next((node for node in present if HEAD in node), {})
    return Growth(head=head, workers=workers, max_workers=min(most, len(workers)))


def _autoscaler_config() -> dict[str, Any] | None:
    """Return the configuration of this cluster's autoscaler, or None if this isn't the head of one."""
    path = Path(os.path.expanduser("~"), _CONFIGURATION)
    head, _, _ = ray.get_runtime_context().gcs_address.rpartition(":")
    if head != ray.util.get_node_ip_address() or not path.exists():
        return None
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def _wait_for_nodes(count: int, progress: Progress) -> None:
    until = time.monotonic() + _FIRST_NODES_SECONDS
    said = None
    while (alive := sum(node["Alive"] for node in ray.nodes())) < count and time.monotonic() < until:
        if alive != said:
            said = alive
            progress.message(f"waiting for the cluster's first nodes: {alive} of {count} are there")
        time.sleep(_POLL_SECONDS)
