"""Teachers: classifiers trained on real images and kept as snapshots, early to late.

teacher = train_teacher(config, 0, "convnet3", dataset, reporter=..., checkpointer=...)
teacher.snapshots, teacher.validation_accuracy
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dim_ray.config import PoolConfig, SnapshotSpacing
from dim_ray.core.data.dataset import Dataset
from dim_ray.core.networks.classifiers import accuracies, build_network
from dim_ray.core.networks.ensemble import Members, stack, train_members
from dim_ray.core.training.checkpoint import (
    optimizer_tensors,
    restore_optimizer,
    with_prefix,
    without_prefix,
)
from dim_ray.core.training.loop import Losses, run_epochs
from dim_ray.core.training.ports import Checkpointer, Reporter, SingleWorker
from dim_ray.core.training.random import derive_seed, stream

__all__ = ["Teacher", "make_optimizer", "snapshot_steps", "train_step", "train_teacher", "train_teachers"]


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


def train_teacher(
    config: PoolConfig,
    number: int,
    architecture: str,
    dataset: Dataset,
    *,
    reporter: Reporter,
    checkpointer: Checkpointer,
) -> Teacher:
    """Trains teacher `number` of the pool alone; see `train_teachers`."""
    [teacher] = train_teachers(config, [number], architecture, dataset, reporter=reporter, checkpointer=checkpointer)
    return teacher


def train_teachers(
    config: PoolConfig,
    numbers: Sequence[int],
    architecture: str,
    dataset: Dataset,
    *,
    reporter: Reporter,
    checkpointer: Checkpointer,
) -> list[Teacher]:
    """Trains teachers of the pool on the training split, on the dataset's device: several as one batched ensemble.

    Each of them becomes what it would become alone, within rounding.

    Args:
        config: Their recipe.
        numbers: Of the teachers: each has a seed of its own.
        architecture: Name in the registry, of all of them.
        dataset: Training and validation split.
        reporter: Is told about every epoch.
        checkpointer: Keeps the state of all of them together.

    Returns:
        Them, with snapshots on that device.

    Raises:
        DivergedError: The loss of any of them was not finite.
    """
    device = dataset.train.images.device
    seeds = [derive_seed(config.seed, "teacher", number) for number in numbers]
    members = stack([build_network(architecture, dataset, stream(seed, "weights", device=device)) for seed in seeds])
    members.set_mode(training=True)
    optimizer = make_optimizer(config, members.parameters)
    steps_per_epoch = len(dataset.train) // config.batch_size
    kept_at = snapshot_steps(config.epochs * steps_per_epoch, config.num_snapshots, config.snapshot_spacing)
    kept: dict[str, Tensor] = {}

    def step(done: int, indices: Tensor) -> Losses:
        rngs = [stream(seed, "augment", step=done) for seed in seeds]
        losses = train_step(config, members, optimizer, dataset, indices.flatten(), rngs)
        if done + 1 in kept_at:
            kept.update(with_prefix(str(done + 1), {name: own.clone() for name, own in members.state().items()}))
        return {"loss": losses.mean()}

    def capture() -> Mapping[str, Tensor]:
        return {
            **with_prefix("network", members.state()),
            **with_prefix("optimizer", optimizer_tensors(optimizer)),
            **with_prefix("snapshots", kept),
        }

    def restore(tensors: Mapping[str, Tensor]) -> None:
        members.load_state(without_prefix("network", tensors))
        restore_optimizer(optimizer, without_prefix("optimizer", tensors))
        kept.update({name: tensor.to(device) for name, tensor in without_prefix("snapshots", tensors).items()})

    run_epochs(
        stage="teacher",
        epochs=config.epochs,
        num_images=len(dataset.train),
        batch_size=config.batch_size,
        seeds=seeds,
        device=device,
        step=step,
        capture=capture,
        restore=restore,
        after_epoch=lambda epoch: {},
        reporter=reporter,
        checkpointer=checkpointer,
        collective=SingleWorker(),
    )
    members.set_mode(training=False)
    validated = accuracies(members.logits, dataset.validation, dataset.normalisation)
    snapshots = zip(*(members.split(without_prefix(str(done), kept)) for done in kept_at), strict=True)
    return [
        Teacher(
            architecture=architecture,
            snapshots=[{name: tensor.clone() for name, tensor in snapshot.items()} for snapshot in own],
            steps=kept_at,
            validation_accuracy=accuracy,
        )
        for own, accuracy in zip(snapshots, validated, strict=True)
    ]


def snapshot_steps(num_steps: int, num_snapshots: int, spacing: SnapshotSpacing = "logarithmic") -> list[int]:
    """Returns up to `num_snapshots` steps from early to `num_steps`, without repeats.

    Args:
        num_steps: Of the whole training.
        num_snapshots: At least 1, which is the last step.
        spacing: Whether the ratios of neighbours are the same, or their differences.
    """
    shares = [(index + 1) / num_snapshots for index in range(num_snapshots - 1)]
    steps = [num_steps**share if spacing == "logarithmic" else num_steps * share for share in shares]
    return sorted({max(1, round(step)) for step in steps} | {num_steps})


def make_optimizer(config: PoolConfig, parameters: Sequence[Tensor]) -> torch.optim.SGD:
    """Returns the optimiser of a teacher, or of several that are stacked."""
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
    """Makes one step of S teachers in training mode.

    Args:
        config: Augmentation and precision.
        members: The teachers.
        optimizer: Of their parameters.
        dataset: The images.
        indices: (S x B,) int64, of the training split's images; teacher after teacher.
        rngs: Of each teacher's augmentation, on the CPU.

    Returns:
        Their cross-entropies, (S,) and detached.
    """
    images = dataset.normalisation.from_bytes(dataset.train.images[indices])
    labels = dataset.train.labels[indices]
    return train_members(
        members, optimizer, images, labels, rngs, augmentation=config.augmentation, precision=config.precision
    )
