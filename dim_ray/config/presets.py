"""Presets of the evaluation, and the reference implementation's quirks as switches by name.

    EvaluationConfig(preset="reference")            the published protocol, with all of its quirks
    EvaluationConfig(quirks=("train_mode_test",))   ours, with one of them

docs/protocols.md describes them, with their measured effects. A quirk is in force only if it concerns the protocol and
the data, so a row doesn't name quirks that couldn't affect it.
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
"""Text of the column `quirks` for no quirks."""

PRESET_QUIRKS: Mapping[Preset, tuple[Quirk, ...]] = {
    "corrected": (),
    # Quirks of the scripts behind the published numbers; dropped_batches is only in the validation script.
    "reference": ("best_of_tests", "extra_batch", "half_normalised_test", "train_mode_test", "uniform_labels"),
}
PRESETS: Mapping[Preset, Mapping[str, Any]] = {
    "corrected": {},
    "reference": {
        "epochs": 1000,
        "min_steps": 1,
        "batch_size": 64,  # of the script that distils; the one that trains priors has 128
        "optimizer": "sgd",
        "learning_rate": 0.01,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "constant",
        "normalisation": "dim",
        "augmentation": "color+crop",
        "labels": "hard",
        "num_test_points": 5,
        "precision": "float32",
    },
}
"""Recipe of each preset: values of fields of the section `evaluation`."""


def quirks_in_force(quirks: Iterable[Quirk], protocol: str, num_channels: int) -> tuple[Quirk, ...]:
    """Return those of `quirks` that concern a protocol and images with this many channels, sorted."""
    return tuple(sorted(quirk for quirk in quirks if _concerns(quirk, protocol, num_channels)))


def join_quirks(quirks: Iterable[Quirk]) -> str:
    """Return the text of the column `quirks`."""
    return "+".join(sorted(quirks)) or NO_QUIRKS


def _concerns(quirk: Quirk, protocol: str, num_channels: int) -> bool:
    if quirk == "uniform_labels":
        return protocol == "on_the_fly"  # others have the same number of images per class
    if quirk in ("dropped_batches", "extra_batch"):
        return protocol != "real_full"  # whose epoch isn't IPC x classes images
    if quirk == "half_normalised_test":
        return num_channels == 1  # the reference has it for MNIST and Fashion-MNIST
    return True
