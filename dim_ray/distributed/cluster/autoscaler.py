"""Nodes of a cluster, including those that its autoscaler may still start.

    nodes, growth = nodes_with_growth(config.study, progress)

Such a cluster begins with only its head, which trains nothing, and ends so when idle workers have gone. The head knows
what may start, from the file of `ray up` or from KubeRay's RayCluster. Where neither says anything, room for a trial is
asked for and waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from dim_ray.config import StudyConfig
from dim_ray.distributed.cluster.placement import DRIVER_SHARE, HEAD, Growth, Node, has_room, worker_gpus
from dim_ray.progress import Progress
from dim_ray.progress.stages import counted

__all__ = ["first_nodes", "make_config_reader", "nodes_with_growth", "possible_growth"]

_FIRST_NODES_SECONDS = 120.0
_ROOM_SECONDS = 300.0
_POLL_SECONDS = 1.0


def nodes_with_growth(study: StudyConfig, progress: Progress) -> tuple[list[Node], Growth | None]:
    """Wait for the first nodes of the joined cluster, and return its nodes and those that may still start."""
    config = _ask_head()
    if config is None:
        return _wait_for_room(study, progress), None
    present = _wait_for_nodes(first_nodes(config), progress)
    growth = possible_growth(config, present)
    if len(present) <= growth.max_workers:  # one of them is the head
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


def make_config_reader() -> Callable[[], dict[str, Any] | None]:
    """Return a function that returns, on the head, its autoscaler's configuration, or None if it can't be read."""

    # Ray sends a local function as code: the head may have another version of ours, or none.
    def read_config() -> dict[str, Any] | None:
        import os
        from pathlib import Path

        import yaml

        name, namespace = os.environ.get("RAY_CLUSTER_NAME"), os.environ.get("RAY_CLUSTER_NAMESPACE")
        if not (name and namespace):  # which KubeRay sets
            path = Path(os.path.expanduser("~"), "ray_bootstrap_config.yaml")  # where Ray's launcher puts it
            return dict(yaml.safe_load(path.read_text(encoding="utf-8"))) if path.exists() else None
        # Ray has no public way: its autoscaler publishes nothing of the nodes that it may start. Its role in
        # Kubernetes, which is the head's too, may read the RayCluster.
        from ray.autoscaler._private.kuberay import autoscaling_config
        from ray.autoscaler._private.kuberay.node_provider import KubernetesHttpApiClient

        try:
            found = KubernetesHttpApiClient(namespace).get(f"rayclusters/{name}")
            if not found["spec"].get("enableInTreeAutoscaling"):
                return None
            return dict(autoscaling_config._derive_autoscaling_config_from_ray_cr(found))
        except (OSError, KeyError, ValueError):  # no role, no answer, or a group without its limits
            return None

    return read_config


def _ask_head() -> dict[str, Any] | None:
    read_config = ray.remote(num_cpus=0, resources=DRIVER_SHARE)(make_config_reader())
    config: dict[str, Any] | None = ray.get(read_config.remote())
    return config


def _wait_for_nodes(count: int, progress: Progress) -> list[Node]:
    until = time.monotonic() + _FIRST_NODES_SECONDS
    said = None
    while len(nodes := _nodes()) < count and time.monotonic() < until:
        if len(nodes) != said:
            said = len(nodes)
            progress.message(f"waiting for the cluster's first nodes: {said} of {count} are there")
        time.sleep(_POLL_SECONDS)
    return nodes


def _wait_for_room(study: StudyConfig, progress: Progress) -> list[Node]:
    """Ask whatever autoscaler there may be for a trial's room; return the nodes when it's there, or at the limit."""
    until = time.monotonic() + _ROOM_SECONDS
    said, asked = None, None
    try:
        while not has_room(study, nodes := _nodes()) and time.monotonic() < until:
            if len(nodes) != said:
                said = len(nodes)
                progress.message(
                    f"no room for a trial on {counted(said, 'node')}; asking for more, up to {_ROOM_SECONDS:.0f} s"
                )
                if asked:
                    remove_placement_group(asked)
                worker = {"CPU": float(study.cpus_per_worker), "GPU": worker_gpus(study, nodes)}
                asked = placement_group([worker] * study.workers_per_trial)  # ends with this process
            time.sleep(_POLL_SECONDS)
    finally:
        if asked:
            remove_placement_group(asked)
    return nodes


def _nodes() -> list[Node]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
