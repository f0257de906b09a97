"""The section `evaluation`: students, and their budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from dim_ray.config.checks import (
    Precision,
    require,
    require_augmentation,
    require_batch,
    require_below_one,
    require_distinct,
    require_not_negative,
    require_positive,
    require_precision,
    require_seed,
)
from dim_ray.errors import ConfigError, nearest

__all__ = ["PROTOCOLS", "WEIGHTS", "EvaluationConfig", "Protocol", "Weights"]

Protocol = Literal["on_the_fly", "fixed", "real_on_the_fly", "real_fixed"]
PROTOCOLS: tuple[str, ...] = get_args(Protocol)
Weights = Literal["average", "raw"]
WEIGHTS: tuple[str, ...] = get_args(Weights)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Students: their images and their budget. An epoch is IPC x classes images."""

    images_per_class: tuple[int, ...] = (1, 10, 50)
    """IPCs to evaluate."""
    protocols: tuple[Protocol, ...] = ("on_the_fly", "fixed", "real_on_the_fly", "real_fixed")
    """How students get their images; the real_ ones are the baselines at the same budget."""
    weights: Weights = "average"
    """Which weights of a generator make the images: their moving average where it has one, or the raw ones."""
    num_seeds: int = 3
    """Students for each cell of the grid."""
    epochs: int = 1000
    """Epochs of IPC x classes images."""
    min_steps: int = 1
    """Small IPCs repeat epochs until at least this many optimiser steps."""
    batch_size: int = 128
    """Images a step; an epoch of fewer images is one batch."""
    learning_rate: float = 0.01
    """Of SGD, at the start."""
    schedule: Literal["constant", "cosine"] = "constant"
    """How the learning rate goes on."""
    momentum: float = 0.9
    """Of SGD, in [0, 1)."""
    weight_decay: float = 5e-4
    """Of SGD."""
    augmentation: str = "color_crop"
    """DSA operations on the students' images, drawn for each image; written as for the pool."""
    num_test_points: int = 5
    """Evenly spaced tests during training that give best_test_accuracy; the last is the headline."""
    precision: Precision = "float32"
    """Of the passes through the networks: float32, bfloat16 (mixed), or auto: bfloat16 where the device has it."""
    seed: int = 0
    """Seed of the first student; the others count up from it."""

    def __post_init__(self) -> None:
        where = "evaluation"
        require(len(self.images_per_class) > 0, f"{where}.images_per_class", self.images_per_class, "at least one IPC")
        require(min(self.images_per_class) > 0, f"{where}.images_per_class", self.images_per_class, "IPCs of 1 or more")
        require_distinct(f"{where}.images_per_class", self.images_per_class)
        require_distinct(f"{where}.protocols", self.protocols)
        require(len(self.protocols) > 0, f"{where}.protocols", self.protocols, "at least one protocol")
        for protocol in self.protocols:
            if protocol not in PROTOCOLS:
                raise ConfigError(f"{where}.protocols has the unknown {protocol!r}; {nearest(protocol, PROTOCOLS)}")
        require(self.weights in WEIGHTS, f"{where}.weights", self.weights, " or ".join(WEIGHTS))
        require_positive(where, self, "num_seeds", "epochs", "min_steps", "learning_rate", "num_test_points")
        require_batch(where, self)
        require_below_one(where, self, "momentum")
        require_not_negative(where, self, "weight_decay")
        require(self.schedule in ("constant", "cosine"), f"{where}.schedule", self.schedule, "constant or cosine")
        require_augmentation(f"{where}.augmentation", self.augmentation)
        require_precision(f"{where}.precision", self.precision)
        require_seed(f"{where}.seed", self.seed)
