"""Samplers on a recorded landscape, without Ray."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from dim_ray.config import Config
from dim_ray.config.study import SAMPLERS, Sampler
from dim_ray.store.artifacts import ArtifactStore
from tests.helpers.small import make_config
from tuning.search.journal import open_journal
from tuning.search.optuna_search import METRIC, StudySearch, settle
from tuning.search.space import grid, open_names, search_space
from tuning.search.time_budget import TimeBudget

BEST = {"pool_size": 2, "capacity": 8, "matching_weight": 0.3, "adversarial_weight": 1.0}


def accuracy(parameters: Mapping[str, Any]) -> float:
    """A landscape with one best place."""
    distance = sum(abs(math.log(parameters[name] / BEST[name])) for name in ("matching_weight", "adversarial_weight"))
    steps = sum(parameters[name] != BEST[name] for name in ("pool_size", "capacity"))
    return max(0.0, 0.9 - 0.15 * distance - 0.1 * steps)


def config_of(root: Path, sampler: Sampler, **changes: Any) -> Config:
    config = make_config(root)
    study = replace(config.study, num_trials=36, matching_weights=(0.01, 10.0), adversarial_weights=(0.1, 10.0))
    return replace(config, study=replace(study, sampler=sampler, **changes))


def search(config: Config, num_trials: int, *, taken: int = 0) -> list[dict[str, Any]]:
    """Runs trials in one process of a study, and returns their parameters."""
    journal = open_journal(ArtifactStore(config.storage.root), "journal")
    asked = StudySearch(
        config,
        journal,
        "study",
        taken=range(taken),
        num_trials=num_trials,
        identify=str,
        results={},
        measure=lambda parameters, result: result,
        budget=TimeBudget(config),
        on_end=lambda *ending: None,
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
        for name, distribution in search_space(config.study).items():
            assert distribution._contains(distribution.to_internal_repr(parameters[name]))
    study = optuna.load_study(storage=open_journal(ArtifactStore(str(tmp_path)), "journal"), study_name="study")
    assert [trial.state.name for trial in study.get_trials()] == ["COMPLETE"] * 12
    assert study.best_value == max(map(accuracy, drawn))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_resumed_study_draws_no_trial_again(tmp_path: Path, sampler: Sampler) -> None:
    config = config_of(tmp_path, sampler)
    first = search(config, 3)
    settle(
        open_journal(ArtifactStore(str(tmp_path)), "journal"),
        "study",
        config,
        finished={number: (parameters, accuracy(parameters)) for number, parameters in enumerate(first)},
        failed={},
    )
    for parameters in search(config, 3, taken=3):
        assert parameters not in first


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_samplers_that_learn_find_a_better_place_than_chance(tmp_path: Path, sampler: Sampler) -> None:
    learned, random = (
        max(map(accuracy, search(config_of(tmp_path / name, name), 30)[15:])) for name in (sampler, "random")
    )
    assert learned > random


def test_grid_runs_through_its_points_each_once_also_when_resumed(tmp_path: Path) -> None:
    config = config_of(tmp_path, "grid")
    assert config.study.num_grid_trials == 36
    drawn = [*search(config, 10), *search(config, 26, taken=10)]
    values = grid(config.study)
    assert len({tuple(sorted(parameters.items())) for parameters in drawn}) == 36
    assert all(parameters[name] in values[name] for parameters in drawn for name in values)


def test_end_of_a_grid_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = config_of(tmp_path, "grid", matching_weights=(0.1, 0.1), adversarial_weights=(1.0, 1.0), num_trials=4)
    assert len(search(config, 4)) == 4
    assert [record.message for record in caplog.records if record.levelname != "INFO"] == []


def test_sequence_of_qmc_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = search(config_of(tmp_path / "whole", "qmc"), 8)
    config = config_of(tmp_path / "parts", "qmc")
    parts = [*search(config, 5), *search(config, 3, taken=5)]
    weights = ("matching_weight", "adversarial_weight")
    assert [[p[name] for name in weights] for p in parts[1:]] == [[p[name] for name in weights] for p in whole[1:]]


SPACE = {
    "matching.kind": ["logits", "features", "none"],
    "matching.temperature": {"low": 1.0, "high": 4.0, "log": True, "when": {"matching.kind": ["logits"]}},
    "matching.unbiased": {"values": [False, True], "when": {"matching.kind": ["features"]}},
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_conditional_parameters_where_they_apply_alone(tmp_path: Path, sampler: Sampler) -> None:
    config = config_of(tmp_path, sampler, space=SPACE)
    drawn = [*search(config, 15), *search(config, 5, taken=15)]
    for parameters in drawn:
        assert list(parameters) == open_names(config.study, parameters)
        for name, value in parameters.items():
            distribution = search_space(config.study)[name]
            assert distribution._contains(distribution.to_internal_repr(value))
    assert len({tuple(parameters) for parameters in drawn}) > 1


def test_grid_of_a_conditional_space_has_each_combination_once_also_when_resumed(tmp_path: Path) -> None:
    small = {"matching_weights": (0.1, 0.1), "adversarial_weights": (1.0, 1.0), "pool_sizes": (1,)}
    config = config_of(tmp_path, "grid", space=SPACE, num_trials=12, **small)
    assert config.study.num_grid_trials == 2 * (3 + 2 + 1)
    drawn = [*search(config, 5), *search(config, 7, taken=5)]
    assert len({tuple(sorted(parameters.items())) for parameters in drawn}) == 12
    assert sum("matching.temperature" in parameters for parameters in drawn) == 6
