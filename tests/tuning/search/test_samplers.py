"""Samplers on a recorded landscape, without Ray."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from dim_ray.config import Config
from dim_ray.config.study import SAMPLERS, Sampler
from tests.helpers.search_driver import FakeRecord
from tests.helpers.small import make_config
from tuning.search.journal import open_journal
from tuning.search.optuna_search import METRIC, StudySearch
from tuning.search.samplers import concurrency_note
from tuning.search.settling import Finished, settle
from tuning.search.space import open_names
from tuning.search.time_budget import TimeBudget

BEST = {"pool.size": 2, "generator.capacity": 8, "matching.weight": 0.3, "matching.adversarial_weight": 1.0}
WEIGHTS = ("matching.weight", "matching.adversarial_weight")

LISTS: dict[str, Any] = {"pool.size": [1, 2], "generator.capacity": [6, 8]}
WIDE = {
    **LISTS,
    "matching.weight": {"low": 0.01, "high": 10.0, "log": True},
    "matching.adversarial_weight": {"low": 0.1, "high": 10.0, "log": True},
}


def accuracy(parameters: Mapping[str, Any]) -> float:
    """A landscape with one best place."""
    distance = sum(abs(math.log(parameters.get(name, BEST[name]) / BEST[name])) for name in WEIGHTS)
    steps = sum(parameters.get(name, BEST[name]) != BEST[name] for name in ("pool.size", "generator.capacity"))
    return max(0.0, 0.9 - 0.15 * distance - 0.1 * steps)


class Distinct(FakeRecord):
    """A record in which every trial has another generator."""

    def generator_of(self, parameters: Mapping[str, Any]) -> str:
        return uuid.uuid4().hex


def config_of(root: Path, sampler: Sampler, **changes: Any) -> Config:
    config = make_config(root)
    study = {"num_trials": 36, "space": WIDE, "sampler": sampler, **changes}
    return replace(config, study=replace(config.study, **study))


def search(config: Config, num_trials: int, *, taken: int = 0) -> list[dict[str, Any]]:
    """Runs trials in one process of a study, and returns their parameters."""
    journal = open_journal(Path(config.storage.root, "journal"))
    asked = StudySearch(
        config,
        journal,
        "study",
        record=Distinct(taken),
        num_trials=num_trials,
        time_budget=TimeBudget(config),
    )
    drawn = []
    for number in range(taken, taken + num_trials):
        parameters = asked.suggest(str(number))
        assert isinstance(parameters, dict)
        asked.on_trial_complete(str(number), {METRIC: accuracy(parameters), "epoch": 2})
        drawn.append(parameters)
    return drawn


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_stays_in_the_space_and_optuna_remembers_its_trials(tmp_path: Path, sampler: Sampler) -> None:
    config = config_of(tmp_path, sampler)
    drawn = search(config, 12)
    for parameters in drawn:
        assert all(choice.holds(parameters[choice.field]) for choice in config.study.choices)
    study = optuna.load_study(storage=open_journal(tmp_path / "journal"), study_name="study")
    assert [trial.state.name for trial in study.get_trials()] == ["COMPLETE"] * 12
    assert study.best_value == max(map(accuracy, drawn))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_resumed_study_draws_no_trial_again(tmp_path: Path, sampler: Sampler) -> None:
    config = config_of(tmp_path, sampler)
    first = search(config, 3)
    settle(
        open_journal(tmp_path / "journal"),
        "study",
        config,
        finished={number: Finished(parameters, (accuracy(parameters),)) for number, parameters in enumerate(first)},
        failed={},
    )
    for parameters in search(config, 3, taken=3):
        assert parameters not in first


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_samplers_that_learn_find_a_better_place_than_chance(tmp_path: Path, sampler: Sampler) -> None:
    learned, random = (
        max(map(accuracy, search(config_of(tmp_path / name, name), 24)[12:])) for name in (sampler, "random")
    )
    assert learned > random


def test_grid_runs_through_its_points_each_once_also_when_resumed(tmp_path: Path) -> None:
    config = config_of(tmp_path, "grid")
    assert config.study.num_grid_trials == 36
    drawn = [*search(config, 10), *search(config, 26, taken=10)]
    values = {choice.field: choice.points(3) for choice in config.study.choices}
    assert len({tuple(sorted(parameters.items())) for parameters in drawn}) == 36
    assert all(parameters[name] in values[name] for parameters in drawn for name in values)


def test_end_of_a_grid_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = config_of(tmp_path, "grid", space=LISTS, num_trials=4)
    assert len(search(config, 4)) == 4
    assert [record.message for record in caplog.records if record.levelname != "INFO"] == []


def test_sequence_of_qmc_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = search(config_of(tmp_path / "whole", "qmc"), 8)
    config = config_of(tmp_path / "parts", "qmc")
    parts = [*search(config, 5), *search(config, 3, taken=5)]
    assert [[p[name] for name in WEIGHTS] for p in parts[1:]] == [[p[name] for name in WEIGHTS] for p in whole[1:]]


SPACE = {
    "matching.kind": ["logits", "features", "none"],
    "matching.temperature": {"low": 1.0, "high": 4.0, "log": True, "when": {"matching.kind": ["logits"]}},
    "matching.unbiased": {"values": [False, True], "when": {"matching.kind": ["features"]}},
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_conditional_parameters_where_they_apply_alone(tmp_path: Path, sampler: Sampler) -> None:
    config = config_of(tmp_path, sampler, space={**WIDE, **SPACE})
    drawn = [*search(config, 11), *search(config, 2, taken=11)]
    choices = config.study.choices
    for parameters in drawn:
        assert list(parameters) == open_names(config.study, parameters)
        assert all(choice.holds(parameters[choice.field]) for choice in choices if choice.field in parameters)
    assert len({tuple(parameters) for parameters in drawn}) > 1


def test_grid_of_a_conditional_space_has_each_combination_once_also_when_resumed(tmp_path: Path) -> None:
    config = config_of(tmp_path, "grid", space={"generator.capacity": [6, 8], **SPACE}, num_trials=12)
    assert config.study.num_grid_trials == 2 * (3 + 2 + 1)
    drawn = [*search(config, 5), *search(config, 7, taken=5)]
    assert len({tuple(sorted(parameters.items())) for parameters in drawn}) == 12
    assert sum("matching.temperature" in parameters for parameters in drawn) == 6


def test_study_says_what_it_costs_that_many_trials_run_side_by_side(tmp_path: Path) -> None:
    study = config_of(tmp_path, "tpe", num_trials=8).study
    assert concurrency_note(study, 2) is None
    assert concurrency_note(study, 3) == (
        "3 of 8 trials run side by side, and are drawn before the first result: tpe learns little. --max-concurrent 2 "
        "takes longer, and lets it choose more of them."
    )
    assert str(concurrency_note(study, 64)).startswith("8 of 8 trials")
    assert concurrency_note(config_of(tmp_path, "random", num_trials=8).study, 64) is None
