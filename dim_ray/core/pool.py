"""Teachers: trained on real images, kept as snapshots, drawn during distillation.

teacher = train_teacher(config, 0, "convnet3", dataset, reporter=..., checkpointer=...)
pool = TeacherPool([teacher], dataset)
logits = pool.draw(rng)(images)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dim_ray.config import PoolConfig
from dim_ray.core.augment import augment
from dim_ray.core.checkpoint import (
    module_tensors,
    optimizer_tensors,
    restore_module,
    restore_optimizer,
    with_prefix,
    without_prefix,
)
from dim_ray.core.data import Dataset, Normalisation, Split
from dim_ray.core.loop import Losses, run_epochs
from dim_ray.core.networks import build_classifier
from dim_ray.core.ports import Checkpointer, Collective, Reporter, SingleWorker
from dim_ray.core.precision import autocast
from dim_ray.core.random import derive_seed, stream

__all__ = [
    "Classifier",
    "Teacher",
    "TeacherPool",
    "accuracy",
    "shard",
    "shard_weight",
    "snapshot_steps",
    "train_teacher",
]

Classifier = Callable[[Tensor], Tensor]
"""Normalised images (B, C, H, W) to logits (B, K)."""

_TEST_BATCH = 1000  # images at a time where only speed depends on it


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


class TeacherPool:
    """Frozen teachers on one device, of which every step draws one snapshot.

    Args:
        teachers: At least one.
        dataset: Decides shapes and device.
    """

    def __init__(self, teachers: Sequence[Teacher], dataset: Dataset) -> None:
        device = dataset.train.images.device
        self._templates: dict[str, nn.Module] = {}
        self._snapshots: list[list[tuple[str, dict[str, Tensor]]]] = []
        for teacher in teachers:
            if teacher.architecture not in self._templates:
                network = _build(teacher.architecture, dataset, torch.Generator(device))
                self._templates[teacher.architecture] = network.eval().requires_grad_(False)
            self._snapshots.append(
                [
                    (teacher.architecture, {name: tensor.to(device) for name, tensor in snapshot.items()})
                    for snapshot in teacher.snapshots
                ]
            )

    def __len__(self) -> int:
        return len(self._snapshots)

    def draw(self, rng: torch.Generator) -> Classifier:
        """Returns one snapshot in eval mode, uniform over teachers and then over its snapshots.

        Args:
            rng: On the CPU, so that no draw waits for a device.
        """
        snapshots = self._snapshots[_below(len(self._snapshots), rng)]
        architecture, tensors = snapshots[_below(len(snapshots), rng)]
        template = self._templates[architecture]
        return lambda images: torch.func.functional_call(template, tensors, (images,), strict=True)


def shard(numbers: range, collective: Collective) -> range:
    """Returns the teachers that this worker holds: r, r + W, ... of W workers."""
    return numbers[collective.rank :: collective.num_workers]


def shard_weight(numbers: range, collective: Collective) -> float:
    """Returns the size of this worker's shard over the mean size: then every teacher counts the same."""
    return len(shard(numbers, collective)) * collective.num_workers / len(numbers) if numbers else 1.0


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
    network = _build(architecture, dataset, stream(seed, "weights", device=device)).train()
    optimizer = torch.optim.SGD(
        network.parameters(), config.learning_rate, config.momentum, weight_decay=config.weight_decay
    )
    steps_per_epoch = len(dataset.train) // config.batch_size
    kept_at = snapshot_steps(config.epochs * steps_per_epoch, config.num_snapshots)
    snapshots: dict[str, Tensor] = {}

    def step(done: int, indices: Tensor) -> Losses:
        images = dataset.normalisation.from_bytes(dataset.train.images[indices])
        images = augment(images, config.augmentation, stream(seed, "augment", step=done))
        with autocast(config.precision, device):
            logits = network(images)
        loss = F.cross_entropy(logits.float(), dataset.train.labels[indices])
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        if done + 1 in kept_at:
            kept = {name: tensor.detach().clone() for name, tensor in module_tensors(network).items()}
            snapshots.update(with_prefix(str(done + 1), kept))
        return {"loss": loss.detach()}

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


def snapshot_steps(num_steps: int, num_snapshots: int) -> list[int]:
    """Returns up to `num_snapshots` steps, spaced logarithmically from early to `num_steps`, without repeats."""
    if num_snapshots == 1:
        return [num_steps]
    ratio = num_steps ** (1 / num_snapshots)
    return sorted({max(1, round(ratio ** (index + 1))) for index in range(num_snapshots - 1)} | {num_steps})


@torch.no_grad()
def accuracy(classifier: Classifier, split: Split, normalisation: Normalisation) -> float:
    """Returns the share in [0, 1] of a split's images that a classifier in eval mode names correctly."""
    correct = torch.zeros((), dtype=torch.int64, device=split.labels.device)
    batches = zip(torch.split(split.images, _TEST_BATCH), torch.split(split.labels, _TEST_BATCH), strict=True)
    for images, labels in batches:
        correct += (classifier(normalisation.from_bytes(images)).argmax(dim=1) == labels).sum()
    return float(correct) / len(split)


def _build(architecture: str, dataset: Dataset, rng: torch.Generator) -> nn.Module:
    return build_classifier(
        architecture,
        num_channels=dataset.num_channels,
        num_classes=dataset.num_classes,
        image_size=dataset.image_size,
        rng=rng,
    )


def _below(limit: int, rng: torch.Generator) -> int:
    return int(torch.randint(limit, (), generator=rng))
