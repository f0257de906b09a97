"""Teachers: classifiers trained on real images and kept as snapshots, early to late.

teacher = train_teacher(config, 0, "convnet3", dataset, reporter=..., checkpointer=...)
teacher.snapshots, teacher.validation_accuracy
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dim_ray.config import PoolConfig, SnapshotSpacing
from dim_ray.core.augment import augment
from dim_ray.core.checkpoint import (
    module_tensors,
    optimizer_tensors,
    restore_module,
    restore_optimizer,
    with_prefix,
    without_prefix,
)
from dim_ray.core.classifiers import accuracy, build_network
from dim_ray.core.data import Dataset
from dim_ray.core.loop import Losses, run_epochs
from dim_ray.core.ports import Checkpointer, Reporter, SingleWorker
from dim_ray.core.precision import autocast
from dim_ray.core.random import derive_seed, stream

__all__ = ["Teacher", "make_optimizer", "snapshot_steps", "train_step", "train_teacher"]


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
    """Trains teacher `number` of the pool on the training split, on the dataset's device.

    Returns:
        Snapshots on that device.

    Raises:
        DivergedError: The loss was not finite.
    """
    device = dataset.train.images.device
    seed = derive_seed(config.seed, "teacher", number)
    network = build_network(architecture, dataset, stream(seed, "weights", device=device)).train()
    optimizer = make_optimizer(config, network)
    steps_per_epoch = len(dataset.train) // config.batch_size
    kept_at = snapshot_steps(config.epochs * steps_per_epoch, config.num_snapshots, config.snapshot_spacing)
    snapshots: dict[str, Tensor] = {}

    def step(done: int, indices: Tensor) -> Losses:
        loss = train_step(config, network, optimizer, dataset, indices, stream(seed, "augment", step=done))
        if done + 1 in kept_at:
            kept = {name: tensor.detach().clone() for name, tensor in module_tensors(network).items()}
            snapshots.update(with_prefix(str(done + 1), kept))
        return {"loss": loss}

    def capture() -> Mapping[str, Tensor]:
        return {
            **with_prefix("network", module_tensors(network)),
            **with_prefix("optimizer", optimizer_tensors(optimizer)),
            **with_prefix("snapshots", snapshots),
        }

    def restore(tensors: Mapping[str, Tensor]) -> None:
        restore_module(network, without_prefix("network", tensors))
        restore_optimizer(optimizer, without_prefix("optimizer", tensors))
        snapshots.update({name: tensor.to(device) for name, tensor in without_prefix("snapshots", tensors).items()})

    run_epochs(
        stage="teacher",
        epochs=config.epochs,
        num_images=len(dataset.train),
        batch_size=config.batch_size,
        seed=seed,
        device=device,
        step=step,
        capture=capture,
        restore=restore,
        after_epoch=lambda epoch: {},
        reporter=reporter,
        checkpointer=checkpointer,
        collective=SingleWorker(),
    )
    network.eval()
    return Teacher(
        architecture=architecture,
        snapshots=[without_prefix(str(done), snapshots) for done in kept_at],
        steps=kept_at,
        validation_accuracy=accuracy(network, dataset.validation, dataset.normalisation),
    )


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


def make_optimizer(config: PoolConfig, network: nn.Module) -> torch.optim.SGD:
    """Returns the optimiser of a teacher."""
    return torch.optim.SGD(
        network.parameters(), config.learning_rate, config.momentum, weight_decay=config.weight_decay, fused=True
    )


def train_step(
    config: PoolConfig,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    dataset: Dataset,
    indices: Tensor,
    rng: torch.Generator,
) -> Tensor:
    """Makes one step of a teacher in train mode.

    Args:
        config: Augmentation and precision.
        network: The teacher.
        optimizer: Its own.
        dataset: The images.
        indices: (B,) int64, of the training split's images.
        rng: Of the augmentation, on the CPU.

    Returns:
        The cross-entropy, a detached scalar.
    """
    images = dataset.normalisation.from_bytes(dataset.train.images[indices])
    images = augment(images, config.augmentation, rng)
    with autocast(config.precision, images.device):
        logits = network(images)
    loss = F.cross_entropy(logits.float(), dataset.train.labels[indices])
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    optimizer.step()
    return loss.detach()
