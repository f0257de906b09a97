"""Presets and quirks of the evaluation: how they are asked for, and what a row may call itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dim_ray.cli.flags import EVALUATE_FLAGS
from dim_ray.cli.main import parse
from dim_ray.cli.settings import to_yaml
from dim_ray.config import PRESET_QUIRKS, PRESETS, PROTOCOLS, QUIRKS, Config, EvaluationConfig, Protocol, Quirk
from dim_ray.config.presets import join_quirks

REFERENCE = EvaluationConfig(preset="reference", **PRESETS["reference"])


def config_of(*argv: str) -> Config:
    return parse(argv, program="evaluate", description="", flags=EVALUATE_FLAGS, defaults=None)[0]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def reference_recipe(config: Config) -> dict[str, Any]:
    return {name: getattr(config.evaluation, name) for name in PRESETS["reference"]}


def test_preset_brings_its_recipe_in_the_place_of_what_the_file_below_says(tmp_path: Path) -> None:
    file = write(tmp_path / "short.yaml", "evaluation:\n  epochs: 7\n  schedule: cosine\n  augmentation: none\n")
    short = config_of("--config", str(file))
    assert (short.evaluation.epochs, short.evaluation.schedule) == (7, "cosine")
    config = config_of("--config", str(file), "--evaluation.preset", "reference")
    assert reference_recipe(config) == PRESETS["reference"]
    assert config.evaluation.preset_name("on_the_fly", 1) == "reference"


@pytest.mark.parametrize("flags", [["--evaluation.preset", "reference"], ["--evaluation.epochs", "9"]])
def test_flag_beside_a_preset_wins_wherever_it_stands(flags: list[str]) -> None:
    rest = ["--evaluation.epochs", "9"] if "reference" in flags else ["--evaluation.preset", "reference"]
    config = config_of(*flags, *rest)
    assert reference_recipe(config) == {**PRESETS["reference"], "epochs": 9}
    assert config.evaluation.preset_name("on_the_fly", 1) == "custom"


@pytest.mark.parametrize("text", ["preset: reference\n  epochs: 9", "epochs: 9\n  preset: reference"])
def test_field_beside_a_preset_in_a_file_wins_wherever_it_stands(tmp_path: Path, text: str) -> None:
    file = write(tmp_path / "nine.yaml", f"evaluation:\n  {text}\n")
    assert reference_recipe(config_of("--config", str(file))) == {**PRESETS["reference"], "epochs": 9}
    corrected = config_of("--config", str(file), "--evaluation.preset", "corrected").evaluation
    assert (corrected.epochs, corrected.all_quirks) == (9, ())
    again = write(tmp_path / "again.yaml", to_yaml(config_of("--config", str(file))))
    assert config_of("--config", str(again)) == config_of("--config", str(file))


def test_reference_is_what_it_is_published_to_be() -> None:
    assert (REFERENCE.epochs, REFERENCE.learning_rate, REFERENCE.momentum, REFERENCE.weight_decay) == (
        1000, 0.01, 0.9, 5e-4,
    )  # fmt: skip
    assert (REFERENCE.optimizer, REFERENCE.schedule, REFERENCE.augmentation) == ("sgd", "constant", "color+crop")
    assert REFERENCE.num_test_points == 5
    assert set(QUIRKS) - set(REFERENCE.all_quirks) == {"dropped_batches"}


@pytest.mark.parametrize(("name", "value"), PRESETS["reference"].items())
def test_reference_with_another_value_in_its_recipe_is_not_called_reference(name: str, value: Any) -> None:
    other: dict[str, Any] = {
        "optimizer": "adam",
        "schedule": "cosine",
        "normalisation": "measured",
        "augmentation": "none",
        "labels": "soft",
        "precision": "auto",
        "momentum": 0.5,
    }
    changed = replace(REFERENCE, **{name: other.get(name, 2 * value)})
    assert REFERENCE.preset_name("on_the_fly", 1) == "reference"
    assert changed.preset_name("on_the_fly", 1) == "custom"


@pytest.mark.parametrize("quirk", QUIRKS)
def test_a_quirk_on_top_of_corrected_is_not_called_corrected(quirk: Quirk) -> None:
    assert EvaluationConfig(quirks=(quirk,)).preset_name("on_the_fly", 1) == "custom"


@pytest.mark.parametrize("left_out", PRESET_QUIRKS["reference"])
def test_reference_without_one_of_its_quirks_is_not_called_reference(left_out: Quirk) -> None:
    quirks = tuple(quirk for quirk in PRESET_QUIRKS["reference"] if quirk != left_out)
    assert EvaluationConfig(**PRESETS["reference"], quirks=quirks).preset_name("on_the_fly", 1) == "custom"
    assert (
        EvaluationConfig(**PRESETS["reference"], quirks=(*quirks, left_out)).preset_name("on_the_fly", 1) == "reference"
    )


def test_any_recipe_without_quirks_is_called_corrected() -> None:
    assert EvaluationConfig(epochs=7, optimizer="adamw", labels="soft").preset_name("fixed", 3) == "corrected"


@pytest.mark.parametrize(
    ("protocol", "num_channels", "absent"),
    [
        ("on_the_fly", 1, set()),
        ("on_the_fly", 3, {"half_normalised_test"}),
        ("fixed", 1, {"uniform_labels"}),
        ("real_on_the_fly", 3, {"uniform_labels", "half_normalised_test"}),
        ("real_full", 1, {"uniform_labels", "extra_batch"}),
    ],
)
def test_quirks_of_the_reference_are_in_force_where_they_concern_protocol_and_data(
    protocol: Protocol, num_channels: int, absent: set[str]
) -> None:
    recipe = REFERENCE.recipe(protocol, num_channels)
    assert set(recipe.quirks) == set(PRESET_QUIRKS["reference"]) - absent
    assert REFERENCE.preset_name(protocol, num_channels) == "reference"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_recipe_written_again_is_the_same(protocol: Protocol) -> None:
    recipe = REFERENCE.recipe(protocol, 1)
    assert recipe.recipe(protocol, 1) == recipe
    assert replace(REFERENCE, seed=5, num_seeds=9, images_per_class=(7,)).recipe(protocol, 1) == recipe


def test_quirks_are_written_sorted_or_none() -> None:
    assert join_quirks(("train_mode_test", "extra_batch")) == "extra_batch+train_mode_test"
    assert join_quirks(()) == "none"
