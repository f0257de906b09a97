from __future__ import annotations

from ray.tune.search import Searcher

from tests.helpers.search_driver import SAME, Driver
from tuning.search.optuna_search import METRIC


def test_trial_that_was_run_is_not_run_again_and_has_the_result_of_the_first(root: str) -> None:
    driver = Driver(root, changes=SAME)
    driver.start("a")
    driver.end("a", 0.75)
    driver.search._num_left = 2
    assert driver.search.suggest("b") == Searcher.FINISHED
    assert driver.ended == [0, 1, 2]
    assert driver.reused == {1: 0, 2: 0}
    assert driver.last_results[1] == {
        METRIC: 0.75, "epoch": 2, "reused_trial": 0, "reused_seconds": 5.0, "time_total_s": 0.0,
        "generator_bytes": 600, "alone_device_seconds": 7.5,
    }  # fmt: skip
    assert [(trial.state.name, trial.value) for trial in driver.trials()] == [("COMPLETE", 0.75)] * 3


def test_trial_that_was_run_in_an_earlier_process_is_not_run_again(root: str) -> None:
    driver = Driver(root, changes=SAME)
    driver.start("a")
    driver.end("a", 0.0, epoch=1, diverged="the loss is nan")
    again = driver.restarted()
    again.search._num_left = 1
    assert again.search.suggest("b") == Searcher.FINISHED
    assert (again.last_results[1]["diverged"], again.last_results[1]["epoch"], again.reused) == (
        "the loss is nan",
        1,
        {1: 0},
    )


def test_trial_that_runs_is_waited_for_by_the_same_ones(small: Driver) -> None:
    first, second = small.search.suggest("a"), small.search.suggest("b")
    assert first != second
    small.search._num_left = 3
    assert small.search.suggest("c") == Searcher.FINISHED
    assert small.ended == []
    small.end("a", 0.25)
    small.end("b", 0.5)
    assert sorted(small.ended) == [0, 1, 2, 3, 4]
    assert set(small.reused) == {2, 3, 4}
    for number, source in small.reused.items():
        assert small.rows[number] == small.rows[source]


def test_trials_that_waited_for_one_that_failed_fail_with_it_and_run_another_time(root: str) -> None:
    driver = Driver(root, changes=SAME)
    driver.start("a")
    driver.search._num_left = 1
    driver.search.suggest("b")
    driver.end("a", None)
    assert sorted(driver.failed) == [0, 1]
    assert driver.failed_with == {0: None, 1: 0}
    assert driver.rows == {}
    again = driver.restarted()
    assert again.start("c") == [0]
    again.search._num_left = 1
    again.search.suggest("d")
    again.end("c", 0.5)
    assert (again.failed, again.reused) == ({}, {1: 0})
