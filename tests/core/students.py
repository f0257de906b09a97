"""Budgets and sources of students on tiny data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch

from dim_ray.config import EvaluationConfig, GeneratorConfig, Protocol
from dim_ray.core.budgets import Budget, budget
from dim_ray.core.generator import Generator, build_generator
from dim_ray.core.image_sources import ImageSource, image_source
from dim_ray.core.random import stream
from tests.core.tiny import make_dataset

DATASET = make_dataset()
CONFIG = EvaluationConfig(epochs=4, batch_size=4, learning_rate=0.05, num_test_points=2)


def agree(protocol: str, config: EvaluationConfig = CONFIG, *, images_per_class: int = 2, **change: Any) -> Budget:
    arguments: dict[str, Any] = {
        "num_classes": 3,
        "image_bytes": 64,
        "generator_bytes": 10_000,
        "real_class_counts": [8, 8, 8],
        **change,
    }
    return budget(config, cast(Protocol, protocol), images_per_class=images_per_class, **arguments)


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


def make_source(
    protocol: str,
    config: EvaluationConfig = CONFIG,
    *,
    images_per_class: int = 2,
    epochs: int = 4,
    seed: int = 0,
    **change: Any,
) -> ImageSource:
    arguments: dict[str, Any] = {"generator": make_generator(), "dataset": DATASET, **change}
    split = arguments["dataset"].train
    contract = agree(
        protocol,
        replace(config, epochs=epochs),
        images_per_class=images_per_class,
        num_classes=arguments["dataset"].num_classes,
        real_class_counts=split.labels.bincount().tolist(),
    )
    return image_source(
        cast(Protocol, protocol), images_per_class=images_per_class, contract=contract, seed=seed, **arguments
    )
