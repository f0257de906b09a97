"""What a cluster of `ray up` has when its autoscaler has started all that it may.

    resources = resources_with_growth(progress)

Such a cluster begins with its head alone, which trains nothing. The configuration of its autoscaler lies on the head.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import yaml

from dim_ray.progress import Progress

__all__ = ["first_nodes", "most_resources", "resources_with_growth"]

_CONFIGURATION = "ray_bootstrap_config.yaml"  # in the home folder, where Ray's launcher puts it
_FIRST_NODES_SECONDS = 120.0
_POLL_SECONDS = 1.0

log = logging.getLogger(__name__)


def resources_with_growth(progress: Progress) -> dict[str, float]:
    """Returns the resources of the cluster that was joined, by Ray's names, once its first nodes are there.

    Args:
        progress: Is told what is waited for.
    """
    config = _autoscaler_config()
    if config is not None:
        _wait_for_nodes(first_nodes(config), progress)
    present: dict[str, float] = ray.cluster_resources()
    if config is None:
        return present
    most = most_resources(config, present)
    if most != present:
        log.info("Resources now: %s; the autoscaler may start nodes up to: %s", present, most)
        progress.message("the cluster starts nodes as they are needed, which takes minutes where it has too few")
    return most


def first_nodes(config: Mapping[str, Any]) -> int:
    """Returns how many nodes an autoscaler starts unasked, with the head.

    Args:
        config: Of the autoscaler.
    """
    return 1 + sum(int(node.get("min_workers", 0)) for node in config["available_node_types"].values())


def most_resources(config: Mapping[str, Any], present: Mapping[str, float]) -> dict[str, float]:
    """Returns the most that there can be of each resource, as if each were what nodes are chosen by.

    Args:
        config: Of the autoscaler.
        present: What there is, by Ray's names; it's never less.
    """
    workers = [node for name, node in config["available_node_types"].items() if name != config["head_node_type"]]
    most = dict(present)
    for name in {name for node in workers for name in node["resources"]}:
        offers = sorted((float(node["resources"].get(name, 0)), int(node["max_workers"])) for node in workers)
        left, total = int(config["max_workers"]), 0.0
        for amount, count in reversed(offers):
            started = min(count, left)
            total, left = total + started * amount, left - started
        most[name] = max(total, present.get(name, 0.0))
    return most


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
