from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dim_ray.config import Config, StudyConfig
from dim_ray.config.study import SAMPLERS
from dim_ray.pipeline.generators import GENERATOR_FILE, generator_fingerprint
from dim_ray.pipeline.workspace import Workspace
from tests.helpers.search_driver import PARAMETERS, SAME, Driver
from tests.helpers.small import STUDY, build_networks, distil, make_work
from tuning.cost import NetworkCosts, network_keys
from tuning.record import StudyRecord
from tuning.search.objectives import generator_costs, objective_name, row_values, values
from tuning.search.optuna_search import METRIC
from tuning.search.settling import Finished
from tuning.search.space import configure

SEVERAL = {"objectives": ("accuracy", "generator_bytes", "device_seconds"), "scheduler": "none"}


def study(**changes: Any) -> StudyConfig:
    return replace(STUDY, **changes)


def with_study(config: Config, **changes: Any) -> Config:
    return replace(config, study=replace(config.study, **changes))


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The workspace of a trial whose generator is there."""
    study = make_work(tmp_path_factory.mktemp("objectives"))
    work = replace(study, config=configure(with_study(study.config, **SEVERAL), PARAMETERS))
    build_networks(work)
    distil(work)
    return work


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    return Driver(str(tmp_path), changes=SEVERAL)


def test_generator_costs_its_file_and_all_that_made_it(trial: Workspace) -> None:
    costs = generator_costs(trial, NetworkCosts(trial))
    folder = Path(trial.artifacts.uri("generators", generator_fingerprint(trial)))
    assert costs["generator_bytes"] == (folder / GENERATOR_FILE).stat().st_size
    cards = [trial.artifacts.read_card(*key.split("/")) for key in network_keys(trial)]
    cards.append(trial.artifacts.read_card("generators", generator_fingerprint(trial)))
    assert len(cards) == 2 + 1 + 1  # teachers, prior, generator
    assert costs["alone_device_seconds"] == pytest.approx(sum(card["wall_seconds"] for card in cards))


def test_row_of_a_trial_has_what_its_generator_costs_and_that_of_a_diverged_one_has_nothing(trial: Workspace) -> None:
    record = StudyRecord(trial)
    result = {METRIC: 0.5, "epoch": 2, "time_total_s": 0.001}  # it was there: another study made it
    record.write_trial(0, PARAMETERS, record.measured(PARAMETERS, result))
    record.write_trial(1, PARAMETERS, record.measured(PARAMETERS, {**result, METRIC: 0.0, "diverged": "loss nan"}))
    completed, diverged = record.trials().to_dict("records")
    costs = generator_costs(trial, NetworkCosts(trial))
    assert {name: completed[name] for name in costs} == costs
    assert costs["alone_device_seconds"] > completed["device_seconds"]
    assert math.isnan(diverged["generator_bytes"])
    assert record.finished() == {
        0: Finished(PARAMETERS, (0.5, costs["generator_bytes"], costs["alone_device_seconds"])),
        1: Finished(PARAMETERS, (0.0, math.inf, math.inf)),
    }


def test_values_come_in_the_order_of_the_objectives_and_are_none_where_one_is_missing() -> None:
    several = study(objectives=("generator_bytes", "accuracy"), scheduler="none")
    assert values(several, {METRIC: 0.5, "generator_bytes": 10}) == (10.0, 0.5)
    assert values(several, {METRIC: 0.5}) is None
    assert row_values(several, {"state": "completed", "objective": 0.5, "generator_bytes": math.nan}) is None
    assert row_values(study(), {"state": "completed", "objective": 0.5, "generator_bytes": math.nan}) == (0.5,)


def test_name_of_the_objective_says_which_ipcs_are_averaged() -> None:
    assert objective_name(study(selection_images_per_class=(10,))) == f"{METRIC}, on_the_fly, IPC 10"
    name = objective_name(study(selection_images_per_class=(1, 10, 50)))
    assert name == f"{METRIC}, on_the_fly, mean of IPC 1, 10, 50"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_goes_on_from_trials_with_several_objectives_of_which_one_diverged(
    tmp_path: Path, sampler: str
) -> None:
    driver = Driver(str(tmp_path), changes={**SEVERAL, "sampler": sampler})
    for number in range(12):
        name = str(number)
        if driver.search.suggest(name) == "FINISHED":
            break
        driver.end(name, 0.0, diverged="loss nan") if number % 4 == 3 else driver.end(name, 0.1 * (number % 5))
    again = driver.restarted()
    assert isinstance(again.search.suggest("more"), dict)
    trials = [trial for trial in again.trials() if trial.state.name == "COMPLETE"]
    assert len(trials) >= 8
    assert {len(trial.values) for trial in trials} == {3}
    assert any(trial.values == [0.0, math.inf, math.inf] for trial in trials)


def test_journal_has_every_objective_with_its_direction(driver: Driver) -> None:
    driver.start("a", "b")
    driver.end("a", 0.75)
    driver.end("b", None)
    study = driver.restarted().search._study
    assert study.metric_names == ["accuracy", "generator_bytes", "device_seconds"]
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
    capacity = driver.search.lookup("a")[1]["generator.capacity"]
    [best] = study.best_trials
    assert best.values == [0.75, 100 * capacity, 7.5]


def test_finished_trials_that_the_journal_lost_are_added_with_all_objectives(tmp_path: Path) -> None:
    rows = {0: Finished(PARAMETERS, (0.5, 800.0, 3.0)), 1: Finished(PARAMETERS, (0.0, math.inf, math.inf))}
    driver = Driver(str(tmp_path), changes=SEVERAL, rows=rows, last_results={0: {}, 1: {}})
    assert [trial.values for trial in driver.trials()] == [[0.5, 800.0, 3.0], [0.0, math.inf, math.inf]]


def test_trial_whose_row_was_written_before_the_driver_died_is_told_with_all_objectives(driver: Driver) -> None:
    driver.start("a")
    parameters = driver.search.lookup("a")[1]
    driver.write_trial(0, parameters, driver.measured(parameters, {METRIC: 0.25, "epoch": 2}), drawn_by="start")
    [trial] = driver.restarted().trials()
    assert trial.state.name == "COMPLETE"
    assert trial.values == [0.25, 100 * parameters["generator.capacity"], 7.5]


def test_trial_that_is_the_same_takes_over_all_objectives(tmp_path: Path) -> None:
    driver = Driver(str(tmp_path), changes={**SAME, **SEVERAL})
    driver.start("a")
    driver.end("a", 0.75)
    driver.search._num_left = 1
    driver.search.suggest("b")
    assert driver.reused == {1: 0}
    assert [trial.values for trial in driver.trials()] == [[0.75, 600.0, 7.5]] * 2
