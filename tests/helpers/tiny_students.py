"""Budgets, image streams and networks of students on tiny data."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from dim_ray.config import EvaluationConfig, GeneratorConfig, Protocol
from dim_ray.core.data.dataset import Dataset
from dim_ray.core.data.splits import Split
from dim_ray.core.generator.networks import Generator, build_generator
from dim_ray.core.networks.initialise import initialise
from dim_ray.core.students import student
from dim_ray.core.students.budgets import Budget, plan_budget
from dim_ray.core.students.images import ImageStream, make_image_stream
from dim_ray.core.students.student import StudentResult, finished, train_students
from dim_ray.core.training.random import stream
from tests.helpers import reference
from tests.helpers.tiny import ARCHITECTURE, make_dataset

DATASET = make_dataset()
CONFIG = EvaluationConfig(epochs=4, batch_size=4, learning_rate=0.05, num_test_points=2, precision="float32")


def agree(protocol: str, config: EvaluationConfig = CONFIG, *, images_per_class: int = 2, **change: Any) -> Budget:
    arguments: dict[str, Any] = {
        "num_classes": 3,
        "image_bytes": 64,
        "generator_bytes": 10_000,
        "real_class_counts": [8, 8, 8],
        **change,
    }
    return plan_budget(config, cast(Protocol, protocol), images_per_class=images_per_class, **arguments)


def make_generator() -> Generator:
    generator = build_generator(
        GeneratorConfig(capacity=4, latent_dim=8, refinements=()),
        num_classes=3,
        num_channels=1,
        image_size=8,
        rng=stream(0),
    )
    generator.train()
    with torch.no_grad():  # statistics of its own, so that eval mode and training mode differ
        for step in range(3):
            generator.sample(torch.arange(3).repeat(8), stream(0, "statistics", step=step))
    return generator


def make_stream(
    protocol: str,
    config: EvaluationConfig = CONFIG,
    *,
    images_per_class: int = 2,
    epochs: int = 4,
    seed: int = 0,
    **change: Any,
) -> ImageStream:
    arguments: dict[str, Any] = {"generator": make_generator(), "dataset": DATASET, **change}
    split = arguments["dataset"].train
    config = replace(config, epochs=epochs)
    budget = agree(
        protocol,
        config,
        images_per_class=images_per_class,
        num_classes=arguments["dataset"].num_classes,
        real_class_counts=split.labels.bincount().tolist(),
    )
    return make_image_stream(
        config, cast(Protocol, protocol), images_per_class=images_per_class, budget=budget, seed=seed, **arguments
    )


def train(
    config: EvaluationConfig = CONFIG,
    image_stream: ImageStream | None = None,
    dataset: Dataset = DATASET,
    *,
    budget: Budget | None = None,
    architecture: str = ARCHITECTURE,
    seed: int = 0,
    test: bool = True,
) -> StudentResult:
    budget = budget or agree("real_on_the_fly", config)
    image_stream = image_stream or make_stream("real_on_the_fly", epochs=budget.epochs, dataset=dataset)
    [result] = finished(
        train_students(
            config, [image_stream], dataset, architecture=architecture, budgets=[budget], seeds=[seed], test=test
        )
    )
    return result


class Watching(nn.Module):
    """A linear classifier that keeps what it is trained on."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.batches: list[list[int]] = []
        self.linear = nn.Linear(64, num_classes)
        initialise(self, stream(0))

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.batches.append([round(number) for number in images[:, 0, 0, 0].tolist()])
        logits: Tensor = self.linear(images.flatten(1) / 100)
        return logits


def use_network(monkeypatch: pytest.MonkeyPatch, make: Callable[[], nn.Module]) -> None:
    monkeypatch.setattr(student, "build_network", lambda *args, **kwargs: make())


def with_batch_norm() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    initialise(network, stream(3))
    return network


@torch.no_grad()
def share_of_right_answers(network: nn.Module, split: Split) -> float:
    normalised = reference.normalise(split.images / 255, DATASET)
    answers = [network(image[None]).argmax().item() for image in normalised]
    return float(sum(a == b for a, b in zip(answers, split.labels.tolist(), strict=True)) / len(split))


@contextmanager
def no_warnings() -> Iterator[None]:
    """Makes every warning an error."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # otherwise torch warns once a process, perhaps in another test
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        torch.set_warn_always(before)
