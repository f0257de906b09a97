"""Lower bounds of what a run needs of every node.

    needs = estimate_needs(work, placement, num_trials=1)
    needs.memory_bytes(num_workers=2)

They cover the distillations, which hold the pool; activations, augmentation and CUDA come on top. docs/cluster.md
lists what is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from dim_ray.config import Config
from dim_ray.core.generator.pair import build_pair
from dim_ray.core.networks.classifiers import build_network
from dim_ray.core.training.random import stream
from dim_ray.distributed.cluster.placement import DRIVER_BYTES, Placement
from dim_ray.pipeline.teachers import pool_teachers, teacher_fingerprint
from dim_ray.pipeline.workspace import Workspace

__all__ = ["Needs", "estimate_needs"]

_PROCESS_BYTES = 500_000_000  # of its own: measured on Linux, without CUDA, after the imports
_LOG_BYTES = 1_000_000_000
_TRAINED = 4  # weights, gradients and Adam's two moments
_SAVED = 3  # without the gradients


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a run needs, at least."""

    num_workers: int  # at a time, over all nodes
    worker_bytes: int  # memory of one worker
    dataset_bytes: int  # all images and labels
    temp_bytes: int  # disk for Ray's temporary folder, on each node
    storage_bytes: int  # disk for the storage
    num_drivers: int = 0  # trials that wait for their workers at a time, on the head

    def memory_bytes(self, num_workers: int, num_drivers: int = 0) -> int:
        """Return the memory of a node that has room for so many workers, and has so many trials' drivers."""
        workers, drivers = min(num_workers, self.num_workers), num_drivers * DRIVER_BYTES
        return drivers + (workers * self.worker_bytes + self.dataset_bytes if workers else 0)


def estimate_needs(
    work: Workspace, placement: Placement, *, num_trials: int, variants: Sequence[Config] | None = None
) -> Needs:
    """Estimate what a run needs, from its data and networks.

    Args:
        work: Workspace with its data on the CPU.
        placement: Workers of a trial, and trials side by side.
        num_trials: Number of distillations that are to run.
        variants: Their configurations, with the largest pool of each kind. Default: the workspace's.
    """
    dataset = work.dataset
    splits = (dataset.train, dataset.validation, dataset.test)
    dataset_bytes = _size(tensor for split in splits for tensor in (split.images, split.labels))
    works = [replace(work, config=config) for config in variants or [work.config]]
    pairs = {own.config.generator: _pair_bytes(own) for own in {w.config.generator: w for w in works}.values()}
    snapshots = {
        name: _size(build_network(name, dataset, stream(0)).state_dict().values())
        for name in dict.fromkeys(name for own in works for name in own.config.networks.teachers)
    }
    largest, sizes = 0, dict[str, int]()
    for own in works:
        names, num_snapshots = own.config.networks.teachers, own.config.pool.num_snapshots
        teachers = {
            teacher_fingerprint(own, number): num_snapshots * snapshots[names[number % len(names)]]
            for number in pool_teachers(own.config)
        }
        held = sum(teachers.values()) // placement.num_workers + _TRAINED * pairs[own.config.generator]
        largest = max(largest, held)
        sizes |= teachers
    side_by_side = min(placement.max_concurrent, num_trials)
    stored = sum(size for key, size in sizes.items() if not work.artifacts.exists("teachers", key))
    return Needs(
        num_workers=side_by_side * placement.num_workers,
        worker_bytes=_PROCESS_BYTES + dataset_bytes + largest,
        dataset_bytes=dataset_bytes,
        temp_bytes=_LOG_BYTES + dataset_bytes,
        num_drivers=side_by_side if placement.num_workers > 1 else 0,
        storage_bytes=stored + side_by_side * _SAVED * max(pairs.values()),
    )


def _pair_bytes(work: Workspace) -> int:
    config = work.config
    pair = build_pair(config.generator, config.prior, work.dataset, learning_rate=config.prior.learning_rate, seed=0)
    return _size(pair.weights().values())


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
