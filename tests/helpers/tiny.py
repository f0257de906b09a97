"""Data, networks and ports so small that a stage of training takes a tenth of a second."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dim_ray.config import GeneratorConfig, MatchingConfig, PoolConfig, PriorConfig
from dim_ray.core.data.dataset import Dataset, Normalisation
from dim_ray.core.data.splits import Split
from dim_ray.core.generator.pair import Pair, build_pair
from dim_ray.core.networks.classifiers import Classifier, accuracies, build_network
from dim_ray.core.teachers.teacher import Teacher, TeacherTraining
from dim_ray.core.training.checkpoint import dumps, loads
from dim_ray.core.training.loop import run_epochs
from dim_ray.core.training.ports import Ports, SingleWorker, State
from dim_ray.core.training.random import stream

ARCHITECTURE = "convnet3_w8"
GENERATOR = GeneratorConfig(capacity=6, discriminator_capacity=4, latent_dim=8, refinements=(1,))
POOL = PoolConfig(size=2, epochs=2, num_snapshots=3, batch_size=8, precision="float32", seed=3)
PRIOR = PriorConfig(epochs=2, batch_size=8, learning_rate=1e-3, precision="float32", seed=4)
MATCHING = MatchingConfig(
    epochs=2, batch_size=8, learning_rate=1e-3, weight=0.5, weight_unit="absolute", precision="float32", seed=5
)
STEPS_PER_EPOCH = 3
NUM_STEPS = 6


def make_dataset(*, num_classes: int = 3, per_class: int = 8, channels: int = 1, size: int = 8) -> Dataset:
    """Return noisy patterns, one per class, without two equal images."""
    rng = stream(0, "tiny", num_classes, channels, size)
    patterns = torch.rand(num_classes, channels, size, size, generator=rng)

    def split(count: int) -> Split:
        labels = torch.arange(num_classes).repeat_interleave(count)
        labels = labels[torch.randperm(len(labels), generator=rng)]
        noise = torch.rand(len(labels), channels, size, size, generator=rng)
        return Split(images=((0.6 * patterns[labels] + 0.4 * noise) * 255).to(torch.uint8), labels=labels)

    return Dataset(
        name="tiny",
        train=split(per_class),
        validation=split(4),
        test=split(4),
        class_names=tuple(f"class {label}" for label in range(num_classes)),
        normalisation=Normalisation(mean=(0.45,) * channels, std=(0.2,) * channels),
        digest="0" * 16,
        content_digest="0" * 16,
    )


def make_pair(dataset: Dataset, *, ema_decay: float = 0.0, seed: int = 1) -> Pair:
    """Return networks with Adam, as the stages use it."""
    config = replace(GENERATOR, ema_decay=ema_decay)
    return build_pair(config, PRIOR, dataset, learning_rate=PRIOR.learning_rate, seed=seed)


def make_plain_pair(dataset: Dataset, *, ema_decay: float = 0.0, learning_rate: float = 0.02) -> Pair:
    """Return networks with plain gradient descent, for comparisons of two ways to compute the same.

    Adam divides by the size of a gradient, and makes large steps out of the rounding errors of gradients that are zero
    in theory.
    """
    pair = make_pair(dataset, ema_decay=ema_decay)
    return replace(
        pair,
        generator_optimizer=torch.optim.SGD(pair.generator.parameters(), learning_rate),
        discriminator_optimizer=torch.optim.SGD(pair.discriminator.parameters(), learning_rate),
    )


def accuracy(classifier: Classifier, split: Split, normalisation: Normalisation) -> float:
    [share] = accuracies(lambda images: classifier(images)[None], split, normalisation)
    return share


def num_parameters(module: nn.Module) -> int:
    """Return the number of values in a module's parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def make_teachers(dataset: Dataset, snapshots: Sequence[int], architecture: str = ARCHITECTURE) -> list[Teacher]:
    """Return untrained teachers with so many snapshots each, all with different weights."""
    teachers = []
    for number, count in enumerate(snapshots):
        kept = [build_network(architecture, dataset, stream(7, number, index)).state_dict() for index in range(count)]
        teachers.append(
            Teacher(architecture=architecture, snapshots=kept, steps=list(range(1, count + 1)), validation_accuracy=0.5)
        )
    return teachers


def train_teachers(
    config: PoolConfig, numbers: Sequence[int], architecture: str, dataset: Dataset, ports: Ports
) -> list[Teacher]:
    stage = TeacherTraining(config, numbers, architecture, dataset)
    run_epochs(stage, dataset.train, ports)
    return stage.teachers()


def equal_states(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Return whether names, types, shapes and every bit are the same."""
    return dumps(first) == dumps(second)


class InterruptedStageError(Exception):
    """Stands for a kill: no handler of ours catches it."""


class MemoryCheckpointer:
    """A Checkpointer that keeps the state as a file's bytes.

    Args:
        data: Bytes that an earlier one kept.
        every: Steps between saves.
        stop_after: Number of saves after which it interrupts the stage.
    """

    def __init__(self, data: bytes | None = None, *, every: int = 1, stop_after: int | None = None) -> None:
        self.data = data
        self.history: list[bytes] = []
        self._every = every
        self._stop_after = stop_after
        self._asked = 0

    def due(self) -> bool:
        self._asked += 1
        return self._asked % self._every == 0

    def save(self, state: State) -> None:
        self.data = dumps(state.tensors, state.meta)
        self.history.append(self.data)
        if len(self.history) == self._stop_after:
            raise InterruptedStageError

    def load(self) -> State | None:
        if self.data is None:
            return None
        tensors, meta = loads(self.data, "memory")
        return State(tensors=tensors, meta=meta)

    def clear(self) -> None:
        self.data = None


class OneOfSeveral(SingleWorker):
    """A worker of several whose companions raise their flag at chosen calls; nothing is averaged."""

    def __init__(self, rank: int, num_workers: int, *, flagged: Callable[[int], bool] = lambda call: False) -> None:
        self.rank = rank
        self.num_workers = num_workers
        self._flagged = flagged
        self._calls = 0

    def any(self, flag: bool) -> bool:
        self._calls += 1
        return flag or self._flagged(self._calls)


class RecordingReporter:
    """A Reporter that records its reports, and may interrupt the stage."""

    def __init__(self, *, stop_at: int | None = None) -> None:
        self.reports: list[tuple[int, int, dict[str, Any]]] = []
        self.advances: list[tuple[float, int, str]] = []
        self._stop_at = stop_at

    @property
    def steps(self) -> list[int]:
        return [step for step, _, _ in self.reports]

    def losses(self, name: str) -> list[float]:
        return [metrics[name] for _, _, metrics in self.reports]

    def report(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        self.reports.append((step, total, dict(metrics)))
        if step == self._stop_at:
            raise InterruptedStageError

    def advance(self, done: float, total: int, note: str = "") -> None:
        self.advances.append((done, total, note))
