"""The section `evaluation`: students, their budget and their recipe."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
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
from dim_ray.config.presets import PRESET_QUIRKS, PRESETS, QUIRKS, Preset, Quirk, quirks_in_force
from dim_ray.errors import ConfigError, nearest

__all__ = ["PROTOCOLS", "WEIGHTS", "EvaluationConfig", "Protocol", "Weights"]

Protocol = Literal["on_the_fly", "fixed", "real_on_the_fly", "real_fixed", "real_full"]
PROTOCOLS: tuple[str, ...] = get_args(Protocol)
Weights = Literal["average", "raw"]
WEIGHTS: tuple[str, ...] = get_args(Weights)
Labels = Literal["hard", "soft"]
Optimizer = Literal["sgd", "adam", "adamw"]
Schedule = Literal["constant", "cosine", "step"]


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Students: their images and their budget. An epoch is IPC x classes images."""

    images_per_class: tuple[int, ...] = (1, 10, 50)
    """IPCs to evaluate."""
    protocols: tuple[Protocol, ...] = ("on_the_fly", "fixed", "real_on_the_fly", "real_fixed")
    """How students get their images; real_on_the_fly, real_fixed: at the same budget; real_full: the whole split."""
    weights: Weights = "average"
    """Which weights of a generator make the images: their moving average where it has one, or the raw ones."""
    num_seeds: int = 3
    """Students for each cell of the grid."""
    preset: Preset = "corrected"
    """corrected; reference: the reference implementation's quirks, and its recipe where no field says otherwise."""
    quirks: tuple[Quirk, ...] = ()
    """Quirks of the reference implementation, each by name, beyond those of the preset; see docs/protocols.md."""
    labels: Labels = "hard"
    """hard: the class; soft: the mean prediction of the generator's teachers for the image, before augmentation."""
    soft_label_temperature: float = 1.0
    """T: teachers and student are compared as softmax(logits / T). With soft labels only."""
    epochs: int = 1000
    """Epochs of IPC x classes images; of the whole training split for real_full."""
    min_steps: int = 1
    """Small IPCs repeat epochs until at least this many optimiser steps."""
    batch_size: int = 128
    """Images a step; an epoch of fewer images is one batch."""
    optimizer: Optimizer = "sgd"
    """sgd (with momentum), adam or adamw (with decoupled weight decay)."""
    learning_rate: float = 0.01
    """Of the optimiser, at the start."""
    schedule: Schedule = "constant"
    """How the learning rate goes on: constant, cosine (to 0), or step (decays at decay_points)."""
    decay_points: tuple[float, ...] = (0.5,)
    """Shares of training, in (0, 1) and rising, after which a step schedule multiplies the rate by decay_factor."""
    decay_factor: float = 0.1
    """Of a step schedule."""
    momentum: float = 0.9
    """Of sgd, in [0, 1)."""
    beta1: float = 0.9
    """Of adam and adamw, in [0, 1)."""
    beta2: float = 0.999
    """Of adam and adamw, in [0, 1)."""
    weight_decay: float = 5e-4
    """Of the optimiser."""
    augmentation: str = "color_crop"
    """DSA operations on the students' images, drawn for each image; written as for the pool."""
    num_test_points: int = 5
    """Evenly spaced tests during training that give best_test_accuracy; the last is the headline."""
    precision: Precision = "auto"
    """Of the passes through the networks: float32, bfloat16 (mixed), or auto: bfloat16 where the device has it."""
    seed: int = 0
    """Seed of the first student; the others count up from it."""
    students_at_once: int | None = field(default=None, metadata={"place": True})
    """Most students that are trained as one batched ensemble: those that differ in nothing but seed, protocol or
    generator. Default: num_seeds where an ensemble is known to be faster on the device, otherwise 1."""

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
        for name, kinds in (
            ("weights", Weights), ("preset", Preset), ("labels", Labels), ("optimizer", Optimizer),
            ("schedule", Schedule),
        ):  # fmt: skip
            require(
                getattr(self, name) in get_args(kinds), f"{where}.{name}", getattr(self, name), _or(get_args(kinds))
            )
        self._check_quirks(where)
        require_positive(
            where, self, "num_seeds", "epochs", "min_steps", "learning_rate", "num_test_points", "decay_factor",
            "soft_label_temperature",
        )  # fmt: skip
        if self.students_at_once is not None:
            require_positive(where, self, "students_at_once")
        require_batch(where, self)
        require_below_one(where, self, "momentum", "beta1", "beta2")
        require_not_negative(where, self, "weight_decay")
        require(
            len(self.decay_points) > 0 and all(low < high for low, high in pairwise((0.0, *self.decay_points, 1.0))),
            f"{where}.decay_points",
            self.decay_points,
            "at least one share of training, each above 0, below 1 and above the one before",
        )
        require_augmentation(f"{where}.augmentation", self.augmentation)
        require_precision(f"{where}.precision", self.precision)
        require_seed(f"{where}.seed", self.seed)

    @property
    def all_quirks(self) -> tuple[Quirk, ...]:
        """The preset's quirks and those beside it, sorted."""
        return tuple(sorted({*PRESET_QUIRKS[self.preset], *self.quirks}))

    def recipe(self, protocol: Protocol, num_channels: int) -> EvaluationConfig:
        """Returns all that decides how one student is trained and tested, in one way of writing.

        The grid, weights, seeds and places have their defaults, `quirks` has every quirk that is in force, those of
        the preset too, and what hard labels don't use is left at its default. Two students with the same recipe are
        trained alike.
        """
        plain = EvaluationConfig()
        return replace(
            self,
            images_per_class=plain.images_per_class,
            protocols=plain.protocols,
            weights=plain.weights,
            num_seeds=plain.num_seeds,
            seed=plain.seed,
            students_at_once=plain.students_at_once,
            preset="corrected",
            quirks=quirks_in_force(self.all_quirks, protocol, num_channels),
            soft_label_temperature=(
                self.soft_label_temperature if self.labels == "soft" else plain.soft_label_temperature
            ),
        )

    def preset_name(self, protocol: Protocol, num_channels: int) -> str:
        """Returns what a row may call itself: `corrected`, `reference` or `custom`.

        corrected: no quirk is in force, whatever the recipe. reference: the recipe and every quirk of the reference
        that concerns the protocol and the data, and no other. custom: anything between.
        """
        quirks = quirks_in_force(self.all_quirks, protocol, num_channels)
        if not quirks:
            return "corrected"
        has_recipe = all(getattr(self, name) == value for name, value in PRESETS["reference"].items())
        is_whole = quirks == quirks_in_force(PRESET_QUIRKS["reference"], protocol, num_channels)
        return "reference" if has_recipe and is_whole else "custom"

    def _check_quirks(self, where: str) -> None:
        for quirk in self.quirks:
            if quirk not in QUIRKS:
                raise ConfigError(f"{where}.quirks has the unknown {quirk!r}; {nearest(quirk, QUIRKS)}")
        require_distinct(f"{where}.quirks", self.quirks)
        require(
            not {"dropped_batches", "extra_batch"} <= {*self.all_quirks},
            f"{where}.quirks",
            self.quirks,
            f"one of dropped_batches and extra_batch, which give an epoch two lengths; {where}.preset is "
            f"{self.preset!r}, with the quirks {', '.join(PRESET_QUIRKS[self.preset]) or 'none'}",
        )


def _or(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
