"""Teachers: classifiers trained on real images and kept as snapshots, early to late.

stage = TeacherTraining(config, [0], "convnet3", dataset)
run_epochs(stage, dataset.train, ports)
[teacher] = stage.teachers()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dim_ray.config import NormalisationKind, PoolConfig, SnapshotSpacing
from dim_ray.core.data.dataset import Dataset
from dim_ray.core.networks.classifiers import accuracies, build_network
from dim_ray.core.networks.ensemble import Members, stack, train_members
from dim_ray.core.training.checkpoint import optimizer_tensors, restore_optimizer, with_prefix, without_prefix
from dim_ray.core.training.loop import Losses, Stage
from dim_ray.core.training.random import derive_seed, stream

__all__ = ["Teacher", "TeacherTraining", "make_optimizer", "snapshot_steps", "train_step"]


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A classifier's snapshots, early to late."""

    architecture: str
    snapshots: Sequence[Mapping[str, Tensor]]
    """Weights and buffers at each of `steps`."""
    steps: Sequence[int]
    """Optimiser steps at each snapshot."""
    validation_accuracy: float
    """Of the last snapshot, in [0, 1]."""
    normalisation: NormalisationKind = "measured"
    """Normalisation of the images that it saw."""


class TeacherTraining(Stage):
    """Trains teachers of one architecture on the dataset's device, several of them as one batched ensemble.

    Each becomes what it would become by itself, within rounding. Their numbers in the pool decide their seeds, and the
    dataset has the normalisation of `config`.
    """

    name = "teacher"

    def __init__(self, config: PoolConfig, numbers: Sequence[int], architecture: str, dataset: Dataset) -> None:
        self.epochs, self.batch_size = config.epochs, config.batch_size
        self.seeds = [derive_seed(config.seed, "teacher", number) for number in numbers]
        self._config = config
        self._architecture = architecture
        self._dataset = dataset
        self._device = dataset.device
        rngs = [stream(seed, "weights", device=self._device) for seed in self.seeds]
        self._members = stack([build_network(architecture, dataset, rng) for rng in rngs])
        self._members.set_mode(training=True)
        self._optimizer = make_optimizer(config, self._members.parameters)
        num_steps = config.epochs * (len(dataset.train) // config.batch_size)
        self._kept_at = snapshot_steps(num_steps, config.num_snapshots, config.snapshot_spacing)
        self._kept: dict[str, Tensor] = {}

    def step(self, number: int, indices: Tensor) -> Losses:
        """Take one step of every teacher down its cross-entropy, and keep its weights if a snapshot is due."""
        rngs = [stream(seed, "augment", step=number, device=self._device) for seed in self.seeds]
        losses = train_step(self._config, self._members, self._optimizer, self._dataset, indices.flatten(), rngs)
        if number + 1 in self._kept_at:
            snapshot = {name: tensor.clone() for name, tensor in self._members.state().items()}
            self._kept.update(with_prefix(str(number + 1), snapshot))
        return {"loss": losses.mean()}

    def state(self) -> Mapping[str, Tensor]:
        return {
            **with_prefix("network", self._members.state()),
            **with_prefix("optimizer", optimizer_tensors(self._optimizer)),
            **with_prefix("snapshots", self._kept),
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        self._members.load_state(without_prefix("network", tensors))
        restore_optimizer(self._optimizer, without_prefix("optimizer", tensors))
        kept = without_prefix("snapshots", tensors)
        self._kept.update({name: tensor.to(self._device) for name, tensor in kept.items()})

    def teachers(self) -> list[Teacher]:
        """Return the trained teachers, in the order of their numbers."""
        self._members.set_mode(training=False)
        validated = accuracies(self._members.logits, self._dataset.validation, self._dataset.normalisation)
        kept = [self._members.split(without_prefix(str(step), self._kept)) for step in self._kept_at]
        return [
            Teacher(
                architecture=self._architecture,
                snapshots=[{name: tensor.clone() for name, tensor in snapshot.items()} for snapshot in own],
                steps=self._kept_at,
                validation_accuracy=accuracy,
                normalisation=self._config.normalisation,
            )
            for own, accuracy in zip(zip(*kept, strict=True), validated, strict=True)
        ]


def snapshot_steps(num_steps: int, num_snapshots: int, spacing: SnapshotSpacing = "linear") -> list[int]:
    """Return up to `num_snapshots` distinct steps, ending with `num_steps`, at one distance or (logarithmic) ratio."""
    shares = [(index + 1) / num_snapshots for index in range(num_snapshots - 1)]
    steps = [num_steps**share if spacing == "logarithmic" else num_steps * share for share in shares]
    return sorted({max(1, round(step)) for step in steps} | {num_steps})


def make_optimizer(config: PoolConfig, parameters: Sequence[Tensor]) -> torch.optim.SGD:
    """Return the optimiser of a teacher, or of several that are stacked."""
    return torch.optim.SGD(
        parameters, config.learning_rate, config.momentum, weight_decay=config.weight_decay, fused=True
    )


def train_step(
    config: PoolConfig,
    members: Members,
    optimizer: torch.optim.Optimizer,
    dataset: Dataset,
    indices: Tensor,
    rngs: Sequence[torch.Generator],
) -> Tensor:
    """Take one step of S teachers in training mode, and return their cross-entropies, (S,) and detached.

    `indices` are of training images, teacher after teacher: (S x B,) int64. `rngs` are as for `train_members`.
    """
    images = dataset.normalisation.from_bytes(dataset.train.images[indices])
    labels = dataset.train.labels[indices]
    return train_members(
        members, optimizer, images, labels, rngs, augmentation=config.augmentation, precision=config.precision
    )
