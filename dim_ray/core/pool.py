"""The pool of stored teachers, which a distillation draws from, and each worker's shard of it.

    pool = StoredPool([teacher], dataset)
    [drawn] = pool.draw(step, 1, rng)
    logits = drawn(images)

The other kind of pool, whose teachers are trained beside the generator, is in `dim_ray.core.online`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from dim_ray.config import Precision
from dim_ray.core.classifiers import build_network
from dim_ray.core.data import Dataset
from dim_ray.core.ports import Collective
from dim_ray.core.precision import autocast
from dim_ray.core.teachers import Teacher

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

    def state(self) -> Mapping[str, Tensor]:
        """Returns what the next step needs to know of those before it: flat tensors by name, all finite.

        It's nothing at the end of an epoch, where one worker's state stands for all of them.
        """

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes back what `state` returned, before the next step is drawn."""


class StoredPool:
    """A TeacherPool of finished teachers on one device, drawn uniformly and each draw by itself.

    Args:
        teachers: At least one.
        dataset: Decides shapes and device.
    """

    def __init__(self, teachers: Sequence[Teacher], dataset: Dataset) -> None:
        device = dataset.train.images.device
        templates: dict[str, nn.Module] = {}
        self._snapshots: list[list[DrawnTeacher]] = []
        for teacher in teachers:
            if teacher.architecture not in templates:
                network = build_network(teacher.architecture, dataset, torch.Generator(device))
                templates[teacher.architecture] = network.eval().requires_grad_(False)
            self._snapshots.append(
                [
                    DrawnTeacher(
                        network=templates[teacher.architecture],
                        tensors={name: tensor.to(device) for name, tensor in snapshot.items()},
                    )
                    for snapshot in teacher.snapshots
                ]
            )

    def __len__(self) -> int:
        return len(self._snapshots)

    def draw(self, step: int, count: int, rng: torch.Generator) -> Sequence[DrawnTeacher]:
        """Returns `count` snapshots, each uniform over teachers and then over the teacher's snapshots."""
        drawn = []
        for _ in range(count):
            snapshots = self._snapshots[_below(len(self._snapshots), rng)]
            drawn.append(snapshots[_below(len(snapshots), rng)])
        return drawn

    def state(self) -> Mapping[str, Tensor]:
        """Returns nothing: a draw depends on no other."""
        return {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Has nothing to take back."""


def shard(numbers: range, collective: Collective) -> range:
    """Returns the teachers that this worker holds: r, r + W, ... of W workers."""
    return numbers[collective.rank :: collective.num_workers]


def shard_weight(numbers: range, collective: Collective) -> float:
    """Returns the size of this worker's shard over the mean size: then every teacher counts the same."""
    return len(shard(numbers, collective)) * collective.num_workers / len(numbers) if numbers else 1.0


def _below(limit: int, rng: torch.Generator) -> int:
    return int(torch.randint(limit, (), generator=rng))
