from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from dim_ray.config import Config, StudyConfig, to_dict
from dim_ray.errors import ConfigError
from tests.core.tiny import make_dataset
from tests.pipeline.small import make_config
from tuning.space import PARAMETERS, check_search, configure, grid, search_space

PARAMETERS_OF_A_TRIAL = {"pool_size": 2, "capacity": 8, "matching_weight": 0.25, "adversarial_weight": 1.5}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_config(tmp_path)


def test_space_has_the_bounds_of_the_configuration() -> None:
    study = StudyConfig(
        pool_sizes=(1, 4), capacities=(24, 32), matching_weights=(0.01, 2.0), adversarial_weights=(0.5, 0.5)
    )
    space: dict[str, Any] = search_space(study)
    assert tuple(space) == PARAMETERS
    assert space["pool_size"].choices == (1, 4)
    assert space["capacity"].choices == (24, 32)
    weight = space["matching_weight"]
    assert (weight.low, weight.high, weight.log, weight.step) == (0.01, 2.0, True, None)
    assert space["adversarial_weight"].single()


def test_every_draw_from_the_space_is_a_configuration(config: Config) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        parameters = study.ask(fixed_distributions=search_space(config.study)).params
        trial = configure(config, parameters)
        assert trial.pool.size in config.study.pool_sizes
        assert trial.generator.capacity in config.study.capacities
        assert 0.1 <= trial.matching.weight <= 1.0
        assert 0.5 <= trial.matching.adversarial_weight <= 2.0


def test_grid_has_both_ends_of_a_range_and_every_value_of_a_list_once() -> None:
    study = StudyConfig(
        pool_sizes=(1, 4), capacities=(24, 24), matching_weights=(0.01, 1.0), adversarial_weights=(0.5, 0.5), seeds=(3,)
    )
    values = grid(study)
    assert values.pop("matching_weight") == pytest.approx([0.01, 0.1, 1.0])
    assert values == {"pool_size": [1, 4], "capacity": [24], "adversarial_weight": [0.5], "seed": [3]}


def test_seed_is_a_parameter_where_the_study_has_several(config: Config) -> None:
    several = replace(config, study=replace(config.study, seeds=(4, 9)))
    assert set(search_space(several.study)) == {*PARAMETERS, "seed"}
    trial = configure(several, {**PARAMETERS_OF_A_TRIAL, "seed": 9})
    assert trial == replace(
        configure(several, {**PARAMETERS_OF_A_TRIAL, "seed": 4}), matching=replace(trial.matching, seed=9)
    )


def test_trial_differs_from_its_study_by_the_four_parameters_alone(config: Config) -> None:
    trial = configure(config, PARAMETERS_OF_A_TRIAL)
    assert (trial.pool.size, trial.generator.capacity) == (2, 8)
    assert (trial.matching.weight, trial.matching.adversarial_weight) == (0.25, 1.5)
    back = replace(
        trial,
        pool=replace(trial.pool, size=config.pool.size),
        generator=replace(trial.generator, capacity=config.generator.capacity),
        matching=replace(
            trial.matching, weight=config.matching.weight, adversarial_weight=config.matching.adversarial_weight
        ),
    )
    assert to_dict(back) == to_dict(config)


def test_parameters_that_are_not_all_there_are_refused(config: Config) -> None:
    with pytest.raises(KeyError, match="capacity"):
        configure(config, {name: value for name, value in PARAMETERS_OF_A_TRIAL.items() if name != "capacity"})


def test_several_sizes_of_a_pool_that_has_none_are_refused(config: Config) -> None:
    dataset = make_dataset()
    check_search(config, dataset)
    online = replace(config, pool=replace(config.pool, kind="online"))
    with pytest.raises(
        ConfigError, match=r"study\.pool_sizes is 1 2, but pool\.kind is 'online'.*--study\.pool_sizes 1"
    ):
        check_search(online, dataset)
    check_search(replace(online, study=replace(config.study, pool_sizes=(1,))), dataset)


def test_search_over_no_epochs_is_refused(config: Config) -> None:
    none = replace(config, matching=replace(config.matching, epochs=0))
    with pytest.raises(ConfigError, match=r"matching\.epochs is 0.*--matching\.epochs to 1"):
        check_search(none, make_dataset())
