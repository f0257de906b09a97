"""How many trials fit side by side on the nodes of a cluster; needs no Ray.

placement = plan_placement(config.study, [local_resources()])
print(placement.max_concurrent)
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from dim_ray.config import StudyConfig
from dim_ray.errors import ResourceError
from dim_ray.progress.stages import counted

__all__ = [
    "DRIVER_BYTES",
    "DRIVER_SHARE",
    "HEAD",
    "Growth",
    "Node",
    "Placement",
    "has_room",
    "local_resources",
    "plan_placement",
    "worker_gpus",
    "workers_that_fit",
]

HEAD = "node:__internal_head__"
"""Resource of the head's node, by which a task is placed there: nothing public tells the head from other nodes."""
DRIVER_SHARE = {HEAD: 0.001}
"""Resources of a trial that only waits for its workers: almost none, and on the head node."""
DRIVER_BYTES = 900_000_000
"""Memory of such a trial's processes on the head node: measured on Linux."""

Node = Mapping[str, float]
"""Resources of a node, by Ray's names."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What one trial holds, and how many run side by side."""

    num_workers: int
    cpus_per_worker: int
    gpus_per_worker: float
    max_concurrent: int

    @property
    def num_slots(self) -> int:
        """Workers side by side."""
        return self.max_concurrent * self.num_workers

    @property
    def device_type(self) -> str:
        """The device that a worker trains on: ``cuda`` or ``cpu``."""
        return "cuda" if self.gpus_per_worker else "cpu"


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Nodes of a cluster whose autoscaler has started all that it may."""

    head: Node
    workers: Sequence[Node]
    """As many nodes of each type as the type allows."""
    max_workers: int
    """Nodes at a time, of all types, without the head."""


def plan_placement(study: StudyConfig, nodes: Sequence[Node], growth: Growth | None = None) -> Placement:
    """Return how many trials run side by side. A worker lies on one node, those of a trial on any.

    Args:
        study: Number of workers of a trial, and what each of them needs.
        nodes: Nodes that have started.
        growth: Nodes that an autoscaler may start.

    Raises:
        ResourceError: Not even one trial can ever be placed.
    """
    possible = [*nodes, *(growth.workers if growth else ())]
    gpus_per_worker = worker_gpus(study, possible)

    def workers_on(node: Node) -> int:
        return workers_that_fit(study.cpus_per_worker, gpus_per_worker, node)

    def workers_in(nodes: Sequence[Node]) -> int:
        return sum(map(workers_on, nodes))

    if growth:
        best = sorted(growth.workers, key=workers_on, reverse=True)[: growth.max_workers]
        nodes = max([growth.head, *best], nodes, key=workers_in)
    workers = workers_in(nodes)
    trials = workers // study.workers_per_trial
    if study.workers_per_trial > 1:
        drivers = [int(node["memory"] // DRIVER_BYTES) for node in nodes if HEAD in node and "memory" in node]
        trials = min([trials, *(max(1, number) for number in drivers)])
    if trials < 1:
        sizes = [(node.get("GPU", 0.0), node.get("CPU", 0.0)) for node in possible]
        gpus, cpus = max(sizes, key=lambda size: (min(size[0], gpus_per_worker), size[1]), default=(0.0, 0.0))
        raise ResourceError(
            f"a trial can never be placed: {counted(study.workers_per_trial, 'worker')} x "
            f"{counted(study.cpus_per_worker, 'CPU')} and {gpus_per_worker:g} GPUs, each worker on one node, and there "
            f"is room for {workers} on {counted(len(nodes), 'node')}, the largest with {cpus:g} CPUs and "
            f"{gpus:g} GPUs; lower --workers-per-trial, study.cpus_per_worker or study.gpus_per_worker, or "
            "use more or larger nodes."
        )
    return Placement(
        num_workers=study.workers_per_trial,
        cpus_per_worker=study.cpus_per_worker,
        gpus_per_worker=gpus_per_worker,
        max_concurrent=trials if study.max_concurrent is None else min(study.max_concurrent, trials),
    )


def worker_gpus(study: StudyConfig, nodes: Sequence[Node]) -> float:
    """Return the GPUs of a worker: as configured, otherwise one where any node has any."""
    has_gpus = any(node.get("GPU") for node in nodes)
    return float(has_gpus) if study.gpus_per_worker is None else study.gpus_per_worker


def has_room(study: StudyConfig, nodes: Sequence[Node]) -> bool:
    """Return whether a trial can be placed on these nodes."""
    gpus = worker_gpus(study, nodes)
    return sum(workers_that_fit(study.cpus_per_worker, gpus, node) for node in nodes) >= study.workers_per_trial


def workers_that_fit(cpus_per_worker: int, gpus_per_worker: float, node: Node) -> int:
    """Return how many workers with so many CPU cores and GPUs fit on a node."""
    cpus, gpus = node.get("CPU", 0.0), node.get("GPU", 0.0)
    workers = math.floor(cpus / cpus_per_worker)
    if gpus_per_worker > 0:  # workers share a GPU, and none is spread over two
        return min(workers, math.floor(gpus) * math.floor(1 / gpus_per_worker))
    return workers


def local_resources() -> Node:
    """Return what Ray will find on this machine, without starting it."""
    return {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}
