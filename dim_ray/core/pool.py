"""Teachers: trained on real images, kept as snapshots, drawn during distillation.

teacher = train_teacher(config, 0, "convnet3", dataset, reporter=..., checkpointer=...)
pool = StoredPool([teacher], dataset)
[drawn] = pool.draw(step, 1, rng)
logits = drawn(images)

The other kind of pool, whose teachers are trained beside the generator, is in `dim_ray.core.online`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dim_ray.config import PoolConfig, Precision, SnapshotSpacing
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
    "DrawnTeacher",
    "StoredPool",
    "Teacher",
    "TeacherPool",
    "accuracies",
    "accuracy",
    "build_network",
    "make_optimizer",
    "shard",
    "shard_weight",
    "snapshot_steps",
    "train_step",
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


def build_network(architecture: str, dataset: Dataset, rng: torch.Generator) -> nn.Module:
    """Returns a freshly initialised classifier for a data set, on the device of `rng`."""
    return build_classifier(
        architecture,
        num_channels=dataset.num_channels,
        num_classes=dataset.num_classes,
        image_size=dataset.image_size,
        rng=rng,
    )


def accuracy(classifier: Classifier, split: Split, normalisation: Normalisation) -> float:
    """Returns the share in [0, 1] of a split's images that a classifier in eval mode names correctly."""
    [share] = accuracies(lambda images: classifier(images)[None], split, normalisation)
    return share


@torch.no_grad()
def accuracies(classifiers: Classifier, split: Split, normalisation: Normalisation) -> list[float]:
    """Returns what `accuracy` gives for each of several classifiers in eval mode.

    Args:
        classifiers: Normalised images (B, C, H, W) to the logits of all, (S, B, K).
        split: Images and labels.
        normalisation: Of the images.
    """
    correct = torch.zeros((), dtype=torch.int64, device=split.labels.device)
    batches = zip(torch.split(split.images, _TEST_BATCH), torch.split(split.labels, _TEST_BATCH), strict=True)
    for images, labels in batches:
        correct = correct + (classifiers(normalisation.from_bytes(images)).argmax(dim=2) == labels).sum(dim=1)
    return [count / len(split) for count in correct.tolist()]


def _below(limit: int, rng: torch.Generator) -> int:
    return int(torch.randint(limit, (), generator=rng))
