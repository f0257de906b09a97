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
    "DRIVER_SHARE",
    "HEAD",
    "Growth",
    "Node",
    "Placement",
    "local_resources",
    "plan_placement",
    "workers_that_fit",
]

HEAD = "node:__internal_head__"
"""A resource of the head node alone."""
DRIVER_SHARE = {HEAD: 0.001}
"""What a trial holds that only waits for its workers: next to nothing of the head node, and nothing that they need."""

Node = Mapping[str, float]
"""What a node has, by Ray's names."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What one trial holds, and how many run side by side."""

    num_workers: int
    cpus_per_worker: int
    gpus_per_worker: float
    max_concurrent: int


@dataclass(frozen=True, kw_only=True)
class Growth:
    """The nodes that there may be once an autoscaler has started all that it may."""

    head: Node
    workers: Sequence[Node]
    """As many of each type as there may be of it."""
    max_workers: int
    """Nodes at a time beside the head, of all types."""


def plan_placement(study: StudyConfig, nodes: Sequence[Node], growth: Growth | None = None) -> Placement:
    """Derives the number of concurrent trials. A worker lies on one node, those of a trial on any.

    Args:
        study: Workers of a trial, and what each of them needs.
        nodes: Those that are there.
        growth: Those that there may be, where an autoscaler starts them.

    Raises:
        ResourceError: Not even one trial can ever be placed.
    """
    possible = [*nodes, *(growth.workers if growth else ())]
    has_gpus = any(node.get("GPU") for node in possible)
    gpus_per_worker = float(has_gpus) if study.gpus_per_worker is None else study.gpus_per_worker

    def workers_on(node: Node) -> int:
        return workers_that_fit(study.cpus_per_worker, gpus_per_worker, node)

    def workers_in(nodes: Sequence[Node]) -> int:
        return sum(map(workers_on, nodes))

    if growth:
        best = sorted(growth.workers, key=workers_on, reverse=True)[: growth.max_workers]
        nodes = max([growth.head, *best], nodes, key=workers_in)
    workers = workers_in(nodes)
    trials = workers // study.workers_per_trial
    if trials < 1:
        largest = max(possible, key=lambda node: (min(_gpus(node), gpus_per_worker), _cpus(node)), default={})
        raise ResourceError(
            f"a trial can never be placed: {counted(study.workers_per_trial, 'worker')} x "
            f"{counted(study.cpus_per_worker, 'CPU')} and {gpus_per_worker:g} GPUs, each worker on one node, and there "
            f"is room for {workers} on {counted(len(nodes), 'node')}, the largest with {_cpus(largest):g} CPUs and "
            f"{_gpus(largest):g} GPUs; lower --workers-per-trial, study.cpus_per_worker or study.gpus_per_worker, or "
            "use more or larger nodes."
        )
    return Placement(
        num_workers=study.workers_per_trial,
        cpus_per_worker=study.cpus_per_worker,
        gpus_per_worker=gpus_per_worker,
        max_concurrent=trials if study.max_concurrent is None else min(study.max_concurrent, trials),
    )


def workers_that_fit(cpus_per_worker: int, gpus_per_worker: float, node: Node) -> int:
    """Returns how many workers fit on a node.

    Args:
        cpus_per_worker: CPU cores of one.
        gpus_per_worker: GPUs of one.
        node: The node.
    """
    cpus, gpus = _cpus(node), _gpus(node)
    workers = math.floor(cpus / cpus_per_worker)
    if gpus_per_worker > 1:
        return min(workers, math.floor(gpus / gpus_per_worker))
    if gpus_per_worker > 0:  # workers share a GPU, and none is spread over two
        return min(workers, math.floor(gpus) * math.floor(1 / gpus_per_worker))
    return workers


def local_resources() -> Node:
    """Returns what Ray will find on this machine, without starting it."""
    return {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}


def _cpus(node: Node) -> float:
    return node.get("CPU", 0.0)


def _gpus(node: Node) -> float:
    return node.get("GPU", 0.0)
