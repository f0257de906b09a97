"""What a run will need of every node, at the least.

    needs = estimate_needs(work, placement, num_trials=1)
    needs.memory_bytes(num_workers=2)

The estimate refuses what can't work, and promises nothing: activations, augmentation and CUDA come on top. It is about
the distillations, which hold the pool, and not about the teachers and students before and after them.

| where | bytes |
| --- | --- |
| memory of a worker | 0.5 GB for Python, PyTorch and Ray, the data set, its share of the pool's snapshots, and 4 x the
networks that it trains: weights, gradients and Adam's two moments |
| memory of a node | its workers, and the data set once more in Ray's object store |
| Ray's temporary folder | 1 GB for logs, and the data set, which may be spilled there |
| a storage that is a folder | the teachers that it doesn't hold yet, and 3 x the networks for each trial's checkpoint |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from dim_ray.config import Config
from dim_ray.core.generator.pair import build_pair
from dim_ray.core.networks.classifiers import build_network
from dim_ray.core.training.random import stream
from dim_ray.distributed.cluster.placement import Placement
from dim_ray.pipeline.teachers import pool_teachers, teacher_fingerprint
from dim_ray.pipeline.workspace import Workspace

__all__ = ["Needs", "estimate_needs"]

_PROCESS_BYTES = 500_000_000  # of its own: measured on Linux, without CUDA, after the imports
_LOG_BYTES = 1_000_000_000
_TRAINED = 4  # weights, gradients and Adam's two moments
_SAVED = 3  # without the gradients


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a run needs, at the least."""

    num_workers: int
    """Workers at a time, over all nodes."""
    worker_bytes: int
    """Memory of one worker."""
    dataset_bytes: int
    """Of all images and labels."""
    temp_bytes: int
    """Disk for Ray's temporary folder, on each node."""
    storage_bytes: int
    """Disk for the storage."""

    def memory_bytes(self, num_workers: int) -> int:
        """Returns the memory of a node that has room for so many workers."""
        workers = min(num_workers, self.num_workers)
        return workers * self.worker_bytes + self.dataset_bytes if workers else 0


def estimate_needs(
    work: Workspace, placement: Placement, *, num_trials: int, variants: Sequence[Config] | None = None
) -> Needs:
    """Estimates what a run needs, from its data and networks.

    Args:
        work: Data on the CPU.
        placement: Workers of a trial, and trials side by side.
        num_trials: Distillations that are to run.
        variants: Configurations of them, with the largest pool of each kind. Default: the workspace's.
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
        teachers = _teacher_bytes(own, snapshots)
        held = sum(teachers.values()) // placement.num_workers + _TRAINED * pairs[own.config.generator]
        largest = max(largest, held)
        sizes |= teachers
    side_by_side = min(placement.max_concurrent, num_trials)
    stored = sum(size for identity, size in sizes.items() if not work.artifacts.exists("teachers", identity))
    return Needs(
        num_workers=side_by_side * placement.num_workers,
        worker_bytes=_PROCESS_BYTES + dataset_bytes + largest,
        dataset_bytes=dataset_bytes,
        temp_bytes=_LOG_BYTES + dataset_bytes,
        storage_bytes=stored + side_by_side * _SAVED * max(pairs.values()),
    )


def _pair_bytes(work: Workspace) -> int:
    config = work.config
    pair = build_pair(config.generator, config.prior, work.dataset, learning_rate=config.prior.learning_rate, seed=0)
    return _size(pair.weights().values())


def _teacher_bytes(work: Workspace, snapshots: Mapping[str, int]) -> dict[str, int]:
    """Returns the bytes of all snapshots of each teacher of the pool, by its fingerprint."""
    config = work.config
    names = config.networks.teachers
    return {
        teacher_fingerprint(work, n): config.pool.num_snapshots * snapshots[names[n % len(names)]]
        for n in pool_teachers(config)
    }


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
