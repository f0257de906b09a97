"""The pool of stored teachers that a distillation draws from, and each worker's shard of it.

    pool = StoredPool([teacher], dataset)
    [drawn] = pool.draw(step, 1, rng)
    logits = drawn(images)

The pool whose teachers are trained beside the generator is in `dim_ray.core.teachers.online`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from dim_ray.config import Precision
from dim_ray.core.data.dataset import Dataset
from dim_ray.core.networks.classifiers import build_network
from dim_ray.core.teachers.snapshots import SnapshotMemory
from dim_ray.core.teachers.teacher import Teacher
from dim_ray.core.training.ports import Collective
from dim_ray.core.training.precision import autocast

__all__ = ["DrawnTeacher", "StoredPool", "TeacherPool", "shard", "shard_weight"]


@dataclass(frozen=True, kw_only=True)
class DrawnTeacher:
    """A classifier with the weights that were drawn for it, in eval mode unless `pool.online_mode` is train."""

    network: nn.Module
    """The structure; its own values are not used."""
    tensors: Mapping[str, Tensor]
    """Every parameter and buffer by name; without gradients."""
    precision: Precision = "float32"
    """Of the pass through the network."""

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits (B, K), float32, of normalised images (B, C, H, W)."""
        tensors = dict(self.tensors)
        if self.network.training:  # BatchNorm then changes its running statistics
            tensors |= {name: tensors[name].clone() for name, _ in self.network.named_buffers()}
        with autocast(self.precision, images.device):
            logits: Tensor = torch.func.functional_call(self.network, tensors, (images,), strict=True)
        return logits.float()


class TeacherPool(Protocol):
    """Teachers for a distillation to draw from."""

    weight: float
    """Factor of this worker's distances, see `shard_weight`."""

    def draw(self, step: int, count: int, rng: torch.Generator) -> Sequence[DrawnTeacher]:
        """Return the teachers of one step, as many in every step, valid until the next draw.

        Steps follow each other from the first, or from that after `load_state`. `rng` is on the CPU, so that no draw
        waits for a device.
        """

    def prefetch(self, count: int, choices: Callable[[], torch.Generator]) -> None:
        """Prepare the next draw while this step's teachers are in use. No draw depends on it.

        `choices` makes the rng of the next draw, and is only called where there is something to prepare.
        """
        return

    def state(self) -> Mapping[str, Tensor]:
        """Return what the next step needs from the steps before: flat tensors by name, all finite.

        Empty at the end of an epoch, where one worker's state stands for all of them.
        """
        return {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned, before the next draw."""
        return


class StoredPool(TeacherPool):
    """A TeacherPool of finished teachers. Each draw is uniform over teachers, then over the teacher's snapshots.

    Teachers, at least one, are consumed one at a time, so that the host needn't hold all of them at once. `limit_bytes`
    is as for `SnapshotMemory`, the first teachers' snapshots first.
    """

    def __init__(
        self, teachers: Iterable[Teacher], dataset: Dataset, *, limit_bytes: int | None = None, weight: float = 1.0
    ) -> None:
        device = dataset.device
        templates: dict[str, nn.Module] = {}
        self.weight = weight
        self._memory = SnapshotMemory(device, limit_bytes)
        self._teachers: list[tuple[nn.Module, list[int]]] = []
        for teacher in teachers:
            if teacher.architecture not in templates:
                network = build_network(teacher.architecture, dataset, torch.Generator(device))
                templates[teacher.architecture] = network.eval().requires_grad_(False)
            snapshots = [self._memory.add(snapshot) for snapshot in teacher.snapshots]
            self._teachers.append((templates[teacher.architecture], snapshots))

    def __len__(self) -> int:
        return len(self._teachers)

    def draw(self, step: int, count: int, rng: torch.Generator) -> Sequence[DrawnTeacher]:
        networks, snapshots = self._choose(count, rng)
        return [
            DrawnTeacher(network=network, tensors=tensors)
            for network, tensors in zip(networks, self._memory.take(snapshots), strict=True)
        ]

    def prefetch(self, count: int, choices: Callable[[], torch.Generator]) -> None:
        if not self._memory.is_on_device:
            _, snapshots = self._choose(count, choices())
            self._memory.fetch(snapshots)

    def _choose(self, count: int, rng: torch.Generator) -> tuple[list[nn.Module], list[int]]:
        """Return networks, and numbers of snapshots."""
        networks, chosen = [], []
        for _ in range(count):
            network, snapshots = self._teachers[_below(len(self._teachers), rng)]
            networks.append(network)
            chosen.append(snapshots[_below(len(snapshots), rng)])
        return networks, chosen


def shard(numbers: range, collective: Collective) -> range:
    """Return the teachers that this worker holds: r, r + W, ... of W workers."""
    return numbers[collective.rank :: collective.num_workers]


def shard_weight(numbers: range, collective: Collective) -> float:
    """Return the size of this worker's shard over the mean size, with which every teacher counts the same."""
    return len(shard(numbers, collective)) * collective.num_workers / len(numbers) if numbers else 1.0


def _below(limit: int, rng: torch.Generator) -> int:
    return int(torch.randint(limit, (), generator=rng))
