from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from dim_ray.pipeline.generators import generator_bytes
from tests.helpers.search_driver import KEY, PARAMETERS, STUDY, Driver, FakeRecord
from tests.helpers.small import SEARCHED, make_config
from tests.helpers.tiny import make_dataset
from tuning.search.journal import open_journal
from tuning.search.optuna_search import METRIC, StudySearch
from tuning.search.settling import Finished
from tuning.search.time_budget import TimeBudget
from tuning.search.variants import SizeLimit


def test_new_trials_are_numbered_from_zero_without_gaps(driver: Driver) -> None:
    assert driver.start("a", "b") == [0, 1]
    driver.end("b")
    assert driver.start("c", "d") == [2, 3]


def test_suggestion_is_what_optuna_remembers(driver: Driver) -> None:
    suggested = driver.search.suggest("a")
    assert suggested is not None
    assert set(suggested) == set(PARAMETERS)
    assert driver.search.lookup("a") == (0, suggested)
    [trial] = driver.trials()
    assert (trial.state, driver.parameters(trial)) == (TrialState.RUNNING, suggested)
    assert trial.user_attrs["number"] == 0


def test_asking_again_for_a_trial_gives_the_same_one(driver: Driver) -> None:
    assert driver.search.suggest("a") == driver.search.suggest("a")
    assert len(driver.trials()) == 1


def test_ended_trial_is_told_to_the_record_and_to_optuna_once(driver: Driver) -> None:
    driver.start("a")
    driver.end("a", 0.75)
    driver.end("a", 0.25)
    assert driver.ended == [0]
    [trial] = driver.trials()
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.75)


def test_failed_trial_is_told_to_the_record_without_a_result(driver: Driver) -> None:
    driver.start("a")
    driver.end("a", None)
    assert (driver.rows, list(driver.failed)) == ({}, [0])
    assert driver.states() == ["FAIL"]


def test_trial_that_went_on_in_another_process_has_taken_the_time_of_both(driver: Driver) -> None:
    driver.start("a", "b")
    driver.end("a", wall_seconds=60.0)  # of which this process, by Tune's account, took 5
    driver.end("b", wall_seconds=4.0)  # 1 s is the start of its process
    assert [driver.last_results[number]["time_total_s"] for number in (0, 1)] == [60.0, 5.0]


def test_trials_that_ended_are_those_that_are_finished_and_what_ended_in_this_run(driver: Driver) -> None:
    driver.start("a", "b", "c")
    driver.end("a")
    driver.end("b", None)
    assert driver.search.num_ended == 2
    again = driver.restarted()
    assert again.search.num_ended == 1, "what failed before is to be tried again"


def test_number_of_a_failed_trial_is_not_given_to_another_one_in_the_same_run(driver: Driver) -> None:
    """Its row, with the reason, would be gone."""
    driver.start("a")
    driver.end("a", None)
    assert driver.start("b") == [1]


def test_finished_trials_of_earlier_runs_keep_their_numbers(driver: Driver) -> None:
    driver.start("a", "b")
    driver.end("a")
    driver.end("b")
    again = driver.restarted()
    assert again.start("c") == [2]
    assert again.queued() == {}


def test_sampler_learns_from_earlier_runs(driver: Driver) -> None:
    driver.start("a")
    driver.end("a", 0.9)
    study = driver.restarted().search._study
    assert study.best_value == 0.9
    assert driver.parameters(study.best_trial) == driver.rows[0].parameters


def test_resumed_study_does_not_draw_again_what_it_drew_before(driver: Driver) -> None:
    drawn = [driver.search.suggest("a"), driver.search.suggest("b")]  # killed with none of them finished
    again = driver.restarted()
    assert [again.search.suggest("c"), again.search.suggest("d")] == drawn  # queued
    assert again.search.suggest("e") not in drawn


def test_two_new_studies_of_the_same_seed_draw_the_same_and_of_another_seed_others(tmp_path: Path) -> None:
    first, second = Driver(str(tmp_path / "1")), Driver(str(tmp_path / "2"))
    assert first.search.suggest("a") == second.search.suggest("b")
    third = Driver(str(tmp_path / "3"))
    config = replace(third.config, study=replace(third.config.study, seed=1))
    other = third.make_search(config)
    assert other.suggest("c") != first.search.lookup("a")[1]


def test_sampler_has_a_seed_of_its_own_for_every_study_seed_and_number_of_drawn_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []

    class Recording(optuna.samplers.TPESampler):
        def __init__(self, *, seed: int | None = None, **options: Any) -> None:
            if seed is not None:  # a study that is merely opened has a sampler, too
                given.append(seed)
            super().__init__(seed=seed, **options)

    monkeypatch.setattr(optuna.samplers, "TPESampler", Recording)
    seeds = [0, 1, 2, 5_000_000_000, 5_000_000_000 % 2**32]
    for study_seed in seeds:
        journal = open_journal(tmp_path / str(study_seed))
        config = make_config(tmp_path)
        config = replace(config, study=replace(config.study, seed=study_seed))
        for num_drawn in range(3):
            search = StudySearch(
                config, journal, STUDY, record=FakeRecord(), num_trials=1, time_budget=TimeBudget(config)
            )
            assert search.suggest(f"trial {num_drawn}") is not None
    assert len(set(given)) == len(given) == 3 * len(seeds)
    assert all(0 <= seed < 2**32 for seed in given)


def test_optunas_trial_has_its_generator_and_its_accuracies_by_epoch(driver: Driver) -> None:
    driver.start("a")
    for epoch, accuracy in ((1, 0.25), (3, 0.5)):
        # Tune's own counter begins anew in a resumed process
        driver.search.on_trial_result("a", {METRIC: accuracy, "epoch": epoch, "training_iteration": 1})
    [trial] = driver.trials()
    parameters = driver.parameters(trial)
    assert trial.user_attrs == {
        "number": 0, "drawn_by": "start", "parameters": parameters, "generator": driver.generator_of(parameters)
    }  # fmt: skip
    assert trial.intermediate_values == {1: 0.25, 3: 0.5}


def test_search_ends_with_its_number_of_trials(driver: Driver) -> None:
    driver.search._num_left = 2
    driver.start("a", "b")
    assert driver.search.suggest("c") == Searcher.FINISHED
    assert len(driver.trials()) == 2


@pytest.mark.parametrize(
    ("sampler", "objectives"),
    [
        *((sampler, ("accuracy",)) for sampler in ("tpe", "gp", "qmc", "random")),
        *((sampler, ("accuracy", "generator_bytes")) for sampler in ("tpe", "nsga2")),
    ],
)
def test_generator_that_is_too_large_is_never_a_trial(
    tmp_path: Path, sampler: str, objectives: tuple[str, ...]
) -> None:
    space = {**SEARCHED, "generator.refinements": [[1], [4]]}
    changes = {"sampler": sampler, "space": space, "objectives": objectives, "scheduler": "none"}
    driver = Driver(str(tmp_path), changes=changes)
    dataset = make_dataset()
    generator = replace(driver.config.generator, capacity=6, refinements=(4,))
    largest = generator_bytes(generator, dataset)
    config = replace(driver.config, study=replace(driver.config.study, max_generator_bytes=largest - 1))
    limit = SizeLimit(config, dataset)
    driver.search = driver.make_search(config, limit)
    allowed = [(choice["generator.capacity"], choice["generator.refinements"]) for choice in limit.choices()]
    assert 0 < len(allowed) < 4
    for name in map(str, range(12)):  # of which the first ten teach the samplers
        driver.start(name)
        driver.end(name, 0.04 * int(name))
    drawn = {
        (row.parameters["generator.capacity"], row.parameters["generator.refinements"]) for row in driver.rows.values()
    }
    assert drawn <= set(allowed)
    assert sorted(driver.rows) == list(range(len(driver.rows)))  # the draws that were refused have no number
    constraints = [trial.constraints for trial in driver.trials() if trial.state == TrialState.PRUNED]
    assert all(own["generator_bytes"] > 0 for own in constraints)  # by which samplers learn to avoid it
    assert len(constraints) > 0 or sampler in ("qmc", "tpe")
    assert driver.states().count("COMPLETE") == len(driver.rows) >= 12
    driver = driver.restarted()
    assert driver.queued() == {}


def run(driver: Driver, num_trials: int, accuracy: float = 0.5) -> list[str]:
    """Runs trials one after another, and returns what drew each."""
    names = [f"run {number}" for number in range(num_trials)]
    for name in names:
        driver.start(name)
        driver.end(name, accuracy)
    return [driver.search.drawn_by(name) for name in names]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2"])
@pytest.mark.parametrize(("num_trials", "num_start"), [(4, 1), (8, 2), (16, 4), (18, 5), (100, 10)])
def test_a_quarter_of_the_trials_and_at_most_ten_spread_before_the_sampler_draws(
    tmp_path: Path, sampler: str, num_trials: int, num_start: int
) -> None:
    driver = Driver(str(tmp_path), changes={"sampler": sampler, "num_trials": num_trials})
    drawn = run(driver, 12)
    assert drawn == ["start"] * num_start + ["sampler"] * (12 - num_start)
    assert driver.drawn_by == dict(enumerate(drawn))


@pytest.mark.parametrize("sampler", ["qmc", "random", "grid"])
def test_samplers_that_learn_nothing_draw_from_the_first_trial(tmp_path: Path, sampler: str) -> None:
    assert set(run(Driver(str(tmp_path), changes={"sampler": sampler}), 3)) == {"sampler"}


def test_all_trials_spread_until_one_has_completed(tmp_path: Path) -> None:
    driver = Driver(str(tmp_path), changes={"num_trials": 8})
    driver.start(*"abcd")
    driver.end("a", 0.5, epoch=1)  # stopped
    driver.start("e")
    driver.end("b", 0.5)
    driver.start("f")
    assert [driver.search.drawn_by(name) for name in "abcdef"] == ["start"] * 5 + ["sampler"]


def test_start_spreads_over_lists_as_over_ranges(tmp_path: Path) -> None:
    space = {**SEARCHED, "pool.size": [1, 2, 4, 8], "matching.kind": ["logits", "features"]}
    driver = Driver(str(tmp_path), changes={"num_trials": 100, "space": space})
    run(driver, 8)
    drawn = [row.parameters for row in driver.rows.values()]
    assert {name: len({own[name] for own in drawn}) for name in space} == {
        "pool.size": 4, "generator.capacity": 2, "matching.weight": 8, "matching.adversarial_weight": 8,
        "matching.kind": 2,
    }  # fmt: skip
    assert [[own["pool.size"] for own in drawn].count(size) for size in space["pool.size"]] == [2] * 4
    assert [own["matching.weight"] < 0.1**0.5 for own in drawn].count(True) == 4


def test_start_goes_on_where_it_was_and_does_not_begin_again_in_a_longer_study(tmp_path: Path) -> None:
    driver = Driver(str(tmp_path), changes={"num_trials": 16})
    run(driver, 3)
    driver = driver.restarted()
    assert run(driver, 4) == ["start", *["sampler"] * 3]
    longer = Driver(str(tmp_path), rows=driver.rows, last_results=driver.last_results, changes={"num_trials": 64})
    assert run(longer, 2) == ["sampler"] * 2


def test_trial_that_is_tried_again_is_drawn_by_retry(driver: Driver) -> None:
    driver.start("a", "b")
    driver.end("b", None)
    again = driver.restarted()
    again.start("c", "d")
    assert [again.search.drawn_by(name) for name in "cd"] == ["retry", "retry"]


def test_point_of_the_start_follows_a_trial_that_repeats_another(tmp_path: Path) -> None:
    lists = {"pool.size": [1, 2], "generator.capacity": [6, 8]}
    driver = Driver(str(tmp_path), changes={"sampler": "gp", "num_trials": 40, "space": lists})
    driver.search._num_left = 16
    for name in map(str, range(16)):
        if driver.search.suggest(name) == Searcher.FINISHED:
            break
        driver.end(name, 0.5)
    drawn = [driver.drawn_by[number] for number in range(16)]
    assert len(driver.reused) == 12  # there are only four
    assert drawn == ["start"] * 10 + ["sampler", "start"] * 3


@pytest.mark.filterwarnings("error:The reported value")
def test_stopped_trial_is_pruned_for_optuna_with_its_accuracies_by_epoch(tmp_path: Path) -> None:
    driver = Driver(str(tmp_path))
    driver.start("a", "b")
    driver.search.on_trial_result("a", {METRIC: 0.25, "epoch": 1})
    driver.end("a", 0.25, epoch=1)
    driver.end("b", 0.5)
    expected = [("PRUNED", {1: 0.25}), ("COMPLETE", {})]
    assert [(trial.state.name, trial.intermediate_values) for trial in driver.trials()] == expected
    assert driver.search._study.best_value == 0.5
    lost = driver.restarted(keeps_journal=False)
    assert [(trial.state.name, trial.intermediate_values) for trial in lost.trials()] == expected


@pytest.mark.parametrize("has_told", [True, False])
def test_stopped_trial_whose_end_optuna_was_not_told_is_pruned_when_the_study_continues(
    tmp_path: Path, has_told: bool
) -> None:
    driver = Driver(str(tmp_path))
    driver.start("a")
    if has_told:
        driver.search.on_trial_result("a", {METRIC: 0.25, "epoch": 1})
    number, parameters = driver.search.lookup("a")
    driver.write_trial(number, parameters, {METRIC: 0.25, "epoch": 1}, drawn_by="start")
    trial = driver.restarted().trials()[-1]
    assert (trial.state.name, trial.intermediate_values) == ("PRUNED", {1: 0.25})


def test_study_of_an_older_version_begins_its_journal_anew_with_what_the_rows_know(tmp_path: Path) -> None:
    old = optuna.create_study(storage=open_journal(tmp_path / KEY), study_name=STUDY, direction="maximize")
    lists = {"pool.size": [1, 2], "generator.capacity": [6, 8]}
    trial = old.ask({name: optuna.distributions.CategoricalDistribution(own) for name, own in lists.items()})
    trial.set_user_attr("number", 0)
    old.tell(trial, 0.5)
    driver = Driver(str(tmp_path), rows={0: Finished(PARAMETERS, (0.5,))}, last_results={0: {}})
    [known] = driver.trials()
    assert (driver.parameters(known), known.value) == (PARAMETERS, 0.5)
    assert driver.start("a") == [1]
