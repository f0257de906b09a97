"""Presets of the evaluation, and the reference implementation's quirks as switches by name.

    EvaluationConfig(preset="reference")            the published protocol, with all of its quirks
    EvaluationConfig(quirks=("train_mode_test",))   ours, with one of them

docs/protocols.md is their ledger: what each does, and what it was measured to do. A quirk is in force only where it
concerns a protocol and the data, so a row names no quirk that changed nothing about it by definition.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

__all__ = ["NO_QUIRKS", "PRESETS", "PRESET_QUIRKS", "QUIRKS", "Preset", "Quirk", "join_quirks", "quirks_in_force"]

Preset = Literal["corrected", "reference"]
Quirk = Literal[
    "best_of_tests", "dropped_batches", "extra_batch", "half_normalised_test", "train_mode_test", "uniform_labels"
]
QUIRKS: tuple[Quirk, ...] = get_args(Quirk)

NO_QUIRKS = "none"
"""What the column `quirks` says where there are none."""

PRESET_QUIRKS: Mapping[Preset, tuple[Quirk, ...]] = {
    "corrected": (),
    # Those of the scripts that the published numbers come from. dropped_batches is the validation script's.
    "reference": ("best_of_tests", "extra_batch", "half_normalised_test", "train_mode_test", "uniform_labels"),
}
PRESETS: Mapping[Preset, Mapping[str, Any]] = {
    "corrected": {},  # is about correctness, and takes any recipe
    "reference": {
        "epochs": 1000,
        "min_steps": 1,
        "batch_size": 128,
        "optimizer": "sgd",
        "learning_rate": 0.01,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "constant",
        "augmentation": "color_crop",
        "labels": "hard",
        "num_test_points": 5,
        "precision": "float32",
    },
}
"""Recipe of each preset: fields of the section `evaluation` with their values."""


def quirks_in_force(quirks: Iterable[Quirk], protocol: str, num_channels: int) -> tuple[Quirk, ...]:
    """Returns those of `quirks` that concern a protocol and images of so many channels, sorted."""
    return tuple(sorted(quirk for quirk in quirks if _concerns(quirk, protocol, num_channels)))


def join_quirks(quirks: Iterable[Quirk]) -> str:
    """Returns the text of the column `quirks`."""
    return "+".join(sorted(quirks)) or NO_QUIRKS


def _concerns(quirk: Quirk, protocol: str, num_channels: int) -> bool:
    if quirk == "uniform_labels":
        return protocol == "on_the_fly"  # the others have a number of images for each class
    if quirk in ("dropped_batches", "extra_batch"):
        return protocol != "real_full"  # whose epoch isn't IPC x classes images
    if quirk == "half_normalised_test":
        return num_channels == 1  # the reference has it for MNIST and Fashion-MNIST
    return True
