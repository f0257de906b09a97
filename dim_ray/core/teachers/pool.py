"""The pool of stored teachers, which a distillation draws from, and each worker's shard of it.

    pool = StoredPool([teacher], dataset)
    [drawn] = pool.draw(step, 1, rng)
    logits = drawn(images)

The other kind of pool, whose teachers are trained beside the generator, is in `dim_ray.core.teachers.online`.
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
    """A classifier in eval mode with the weights that were drawn for it."""

    network: nn.Module
    """Gives the structure; its own values don't count."""
    tensors: Mapping[str, Tensor]
    """Every parameter and buffer by name; without gradients."""
    precision: Precision = "float32"
    """Of the pass through the network."""

    def __call__(self, images: Tensor) -> Tensor:
        """Takes normalised images (B, C, H, W) to logits (B, K), float32."""
        with autocast(self.precision, images.device):
            logits: Tensor = torch.func.functional_call(self.network, dict(self.tensors), (images,), strict=True)
        return logits.float()


class TeacherPool(Protocol):
    """Where a distillation gets its teachers from."""

    def draw(self, step: int, count: int, rng: torch.Generator) -> Sequence[DrawnTeacher]:
        """Returns the teachers of one step of the distillation, which are valid until the next draw.

        Args:
            step: Number of the step. Steps follow each other from the first, or from the one after `load_state`.
            count: How many; the same in every step.
            rng: On the CPU, so that no draw waits for a device.
        """

    def prefetch(self, count: int, choices: Callable[[], torch.Generator]) -> None:
        """Is told of the next step's draw while this step's teachers are in use. No draw depends on it.

        Args:
            count: Of the next draw.
            choices: Makes an rng in the state that the next draw will get. Not called where nothing is gained by it.
        """

    def state(self) -> Mapping[str, Tensor]:
        """Returns what the next step needs to know of those before it: flat tensors by name, all finite.

        It's nothing at the end of an epoch, where one worker's state stands for all of them.
        """

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes back what `state` returned, before the next step is drawn."""


class StoredPool:
    """A TeacherPool of finished teachers, drawn uniformly and each draw by itself.

    Args:
        teachers: At least one; taken one by one, so that those on the device needn't be on the host all at once.
        dataset: Decides shapes and device.
        budget_bytes: What snapshots may take on the device, the first teachers' first; the others stay on the host
            and are brought over ahead of use. None: all are on the device.
    """

    def __init__(self, teachers: Iterable[Teacher], dataset: Dataset, *, budget_bytes: int | None = None) -> None:
        device = dataset.train.images.device
        templates: dict[str, nn.Module] = {}
        self._memory = SnapshotMemory(device, budget_bytes)
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
        """Returns `count` snapshots, each uniform over teachers and then over the teacher's snapshots."""
        networks, snapshots = self._choose(count, rng)
        return [
            DrawnTeacher(network=network, tensors=tensors)
            for network, tensors in zip(networks, self._memory.take(snapshots), strict=True)
        ]

    def prefetch(self, count: int, choices: Callable[[], torch.Generator]) -> None:
        """Begins to bring over those snapshots of the next draw that aren't on the device."""
        if not self._memory.is_on_device:
            _, snapshots = self._choose(count, choices())
            self._memory.fetch(snapshots)

    def state(self) -> Mapping[str, Tensor]:
        """Returns nothing: a draw depends on no other."""
        return {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Has nothing to take back."""

    def _choose(self, count: int, rng: torch.Generator) -> tuple[list[nn.Module], list[int]]:
        """Returns networks, and numbers of snapshots."""
        networks, chosen = [], []
        for _ in range(count):
            network, snapshots = self._teachers[_below(len(self._teachers), rng)]
            networks.append(network)
            chosen.append(snapshots[_below(len(snapshots), rng)])
        return networks, chosen


def shard(numbers: range, collective: Collective) -> range:
    """Returns the teachers that this worker holds: r, r + W, ... of W workers."""
    return numbers[collective.rank :: collective.num_workers]


def shard_weight(numbers: range, collective: Collective) -> float:
    """Returns the size of this worker's shard over the mean size: then every teacher counts the same."""
    return len(shard(numbers, collective)) * collective.num_workers / len(numbers) if numbers else 1.0


def _below(limit: int, rng: torch.Generator) -> int:
    return int(torch.randint(limit, (), generator=rng))
