"""The section `evaluation`: students, their budgets and their recipe."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal, get_args

from dim_ray.config.augmentation import parse_augmentation
from dim_ray.config.checks import (
    NormalisationKind,
    Precision,
    require,
    require_batch,
    require_below_one,
    require_distinct,
    require_known,
    require_not_negative,
    require_positive,
    require_seed,
)
from dim_ray.config.presets import PRESET_QUIRKS, PRESETS, Preset, Quirk, quirks_in_force

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
    """Students: their images, budget and recipe. An epoch is IPC x classes images."""

    images_per_class: tuple[int, ...] = (1, 10, 50)
    """IPCs to evaluate."""
    protocols: tuple[Protocol, ...] = ("on_the_fly", "fixed", "real_on_the_fly", "real_fixed")
    """How students get their images; real_on_the_fly and real_fixed have the same budget, real_full the whole split."""
    weights: Weights = "average"
    """Weights of the generator that makes the images: their moving average, if there is one, or the raw ones."""
    num_seeds: int = 3
    """Students for each cell of the grid."""
    preset: Preset = "corrected"
    """corrected, or reference: the reference implementation's quirks, and its recipe for fields that aren't set."""
    quirks: tuple[Quirk, ...] = ()
    """Additional quirks of the reference implementation, by name; see docs/protocols.md."""
    labels: Labels = "hard"
    """hard: the class; soft: the mean prediction of the generator's teachers for the image before augmentation."""
    soft_label_temperature: float = 1.0
    """T of softmax(logits / T) in teachers and student; only with soft labels."""
    candidates: int = field(default=1, metadata={"added": True})
    """Images generated for each that a student sees. Above 1, the generator's teachers choose the first that their mean
    prediction calls its class, or else the one that comes closest."""
    latent_steps: int = field(default=0, metadata={"added": True})
    """Steps that move the latents of a fixed set until the generator's teachers see its images as they see real ones.
    Above 0, candidates don't matter for fixed sets."""
    epochs: int = 1000
    """Epochs of IPC x classes images; of the whole training split for real_full."""
    min_steps: int = 1
    """Least number of optimiser steps; small IPCs repeat epochs."""
    batch_size: int = 128
    """Images per step; an epoch of fewer images is one batch."""
    optimizer: Optimizer = "sgd"
    """sgd (with momentum), adam or adamw (with decoupled weight decay)."""
    learning_rate: float = 0.01
    """Initial learning rate."""
    schedule: Schedule = "constant"
    """Schedule of the learning rate: constant, cosine (to 0), or step (decays at decay_points)."""
    decay_points: tuple[float, ...] = (0.5,)
    """Shares of training, in (0, 1) and rising, at which a step schedule multiplies the rate by decay_factor."""
    decay_factor: float = 0.1
    """Factor of a step schedule."""
    momentum: float = 0.9
    """Momentum of sgd, in [0, 1)."""
    beta1: float = 0.9
    """beta1 of adam and adamw, in [0, 1)."""
    beta2: float = 0.999
    """beta2 of adam and adamw, in [0, 1)."""
    weight_decay: float = 5e-4
    """Weight decay of the optimiser."""
    normalisation: NormalisationKind = field(default="measured", metadata={"added": True})
    """Normalisation of the students' images, as for the pool (DiM: dim)."""
    augmentation: str = "color+crop"
    """DSA operations on the students' images, drawn for each image; syntax as for the pool."""
    num_test_points: int = 5
    """Evenly spaced tests during training, for best_test_accuracy; the last one is the headline."""
    precision: Precision = "auto"
    """Precision of passes through networks: float32, bfloat16 (mixed), or auto: bfloat16 if the device has it."""
    seed: int = 0
    """Seed of the first student; the others follow."""
    students_at_once: int | None = field(default=None, metadata={"place": True})
    """Largest batched ensemble of students that differ only in seed, protocol or generator. Default: num_seeds if an
    ensemble is faster on the device, otherwise 1."""

    def __post_init__(self) -> None:
        where = "evaluation"
        require(len(self.images_per_class) > 0, f"{where}.images_per_class", self.images_per_class, "at least one IPC")
        require(min(self.images_per_class) > 0, f"{where}.images_per_class", self.images_per_class, "IPCs of 1 or more")
        require_distinct(f"{where}.images_per_class", self.images_per_class)
        require(len(self.protocols) > 0, f"{where}.protocols", self.protocols, "at least one protocol")
        require_known(where, self)
        require(
            not {"dropped_batches", "extra_batch"} <= {*self.all_quirks},
            f"{where}.quirks",
            self.quirks,
            f"one of dropped_batches and extra_batch, which give an epoch two lengths; {where}.preset is "
            f"{self.preset!r}, with the quirks {', '.join(PRESET_QUIRKS[self.preset]) or 'none'}",
        )
        require_positive(
            where, self, "num_seeds", "epochs", "min_steps", "learning_rate", "num_test_points", "decay_factor",
            "soft_label_temperature", "candidates", "students_at_once",
        )  # fmt: skip
        require_batch(f"{where}.batch_size", self.batch_size)
        require_below_one(where, self, "momentum", "beta1", "beta2")
        require_not_negative(where, self, "weight_decay", "latent_steps")
        require(
            len(self.decay_points) > 0 and all(low < high for low, high in pairwise((0.0, *self.decay_points, 1.0))),
            f"{where}.decay_points",
            self.decay_points,
            "at least one share of training, each above 0, below 1 and above the one before",
        )
        parse_augmentation(self.augmentation, f"{where}.augmentation")
        require_seed(f"{where}.seed", self.seed)

    @property
    def all_quirks(self) -> tuple[Quirk, ...]:
        """Quirks of the preset and additional ones, sorted."""
        return tuple(sorted({*PRESET_QUIRKS[self.preset], *self.quirks}))

    @property
    def asks_teachers(self) -> bool:
        """Whether a student needs the generator's teachers."""
        has_latents = self.latent_steps > 0 and "fixed" in self.protocols
        return self.labels == "soft" or self.candidates > 1 or has_latents

    def recipe(self, protocol: Protocol, num_channels: int) -> EvaluationConfig:
        """Return everything that decides how one student is trained and tested, in canonical form.

        Two students with the same recipe are trained alike: the grid, weights, seeds and unused fields have their
        defaults, and `quirks` has every quirk in force, including the preset's.
        """
        unused = ["images_per_class", "protocols", "weights", "num_seeds", "seed", "students_at_once"]
        if self.labels == "hard":
            unused.append("soft_label_temperature")
        if protocol != "fixed":
            unused.append("latent_steps")
        if protocol.startswith("real_") or (protocol == "fixed" and self.latent_steps):
            unused.append("candidates")
        default = EvaluationConfig()
        quirks = quirks_in_force(self.all_quirks, protocol, num_channels)
        return replace(self, preset="corrected", quirks=quirks, **{name: getattr(default, name) for name in unused})

    def preset_name(self, protocol: Protocol, num_channels: int) -> str:
        """Return the preset of a row.

        corrected: no quirk is in force, with any recipe. reference: the reference's recipe and exactly those of its
        quirks that concern the protocol and the data. custom: anything else.
        """
        quirks = quirks_in_force(self.all_quirks, protocol, num_channels)
        if not quirks:
            return "corrected"
        has_recipe = all(getattr(self, name) == value for name, value in PRESETS["reference"].items())
        is_whole = quirks == quirks_in_force(PRESET_QUIRKS["reference"], protocol, num_channels)
        return "reference" if has_recipe and is_whole else "custom"
