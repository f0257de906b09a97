from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from dim_ray.errors import StorageError
from tests.helpers.search_driver import PARAMETERS, SPACE, Driver, KilledError
from tests.helpers.small import make_config
from tuning.search.settling import Finished
from tuning.search.time_budget import TimeBudget


def test_trial_that_ran_when_the_driver_died_is_queued_with_its_number_and_parameters(driver: Driver) -> None:
    driver.start("a", "b", "c")
    driver.end("b")
    parameters = {number: driver.search.lookup(name)[1] for number, name in ((0, "a"), (2, "c"))}
    again = driver.restarted()
    assert again.queued() == parameters
    assert again.start("d", "e", "f") == [0, 2, 3]
    assert [again.search.lookup(name)[1] for name in ("d", "e")] == [parameters[0], parameters[2]]


def test_interrupted_trials_are_queued_once_however_often_the_study_is_opened(driver: Driver) -> None:
    driver.start("a")
    for _ in range(3):
        driver = driver.restarted()
        assert list(driver.queued()) == [0]
    driver.settle()
    assert driver.states() == ["FAIL", "WAITING"]


def test_trial_interrupted_twice_keeps_its_number_and_parameters(driver: Driver) -> None:
    drawn = driver.search.suggest("a")
    driver = driver.restarted()
    driver.start("b")
    driver = driver.restarted()
    driver.start("c")
    assert driver.search.lookup("c") == (0, drawn)


@pytest.mark.parametrize("error", [KilledError(), ValueError("a broken journal")], ids=["killed", "broken"])
def test_trial_whose_row_was_written_before_the_driver_died_is_not_run_again(
    driver: Driver, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    driver.start("a", "b")
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "tell", fail)
        with contextlib.suppress(KilledError):
            driver.end("a", 0.75)
    assert driver.states() == ["RUNNING", "RUNNING"]
    again = driver.restarted()
    assert list(again.queued()) == [1]
    assert [(t.state.name, t.value) for t in again.trials()] == [
        ("COMPLETE", 0.75), ("FAIL", None), ("WAITING", None)
    ]  # fmt: skip
    assert again.start("c", "d") == [1, 2]


def test_row_is_written_before_optuna_is_told(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    states = []
    monkeypatch.setattr(driver, "write_trial", lambda *ending, **more: states.extend(driver.states()))
    driver.start("a")
    driver.end("a")
    assert states == ["RUNNING"]
    assert driver.states() == ["COMPLETE"]


def test_row_that_cannot_be_written_leaves_the_trial_unfinished(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*ending: object, **more: object) -> None:
        raise StorageError("the disk is full")

    driver.start("a")
    monkeypatch.setattr(driver, "write_trial", fail)
    with pytest.raises(StorageError):
        driver.end("a")
    assert driver.states() == ["RUNNING"]
    assert list(driver.restarted().queued()) == [0]


def test_failed_trials_are_queued_once_with_their_numbers(root: str) -> None:
    driver = Driver(root, failed={3: PARAMETERS})
    driver.settle()
    driver = driver.restarted()
    assert driver.queued() == {3: PARAMETERS}
    assert driver.start("a", "b") == [3, 0]
    driver.end("a", 0.5)
    assert driver.restarted().queued() == {0: driver.search.lookup("b")[1]}


def test_finished_trials_that_the_journal_lost_are_added(root: str) -> None:
    rows = {
        0: Finished(PARAMETERS, (0.5,)),
        1: Finished({**PARAMETERS, "generator.capacity": 6}, (0.7,)),
        2: Finished(PARAMETERS, None),
    }
    driver = Driver(root, rows=rows, last_results={number: {} for number in rows})
    driver.settle()
    values = {t.user_attrs["number"]: (t.value, driver.parameters(t)) for t in driver.trials()}
    assert values == {0: (0.5, PARAMETERS), 1: (0.7, {**PARAMETERS, "generator.capacity": 6})}
    assert driver.start("a") == [3]


def test_trial_that_died_before_it_had_a_number_is_forgotten(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*args: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Trial, "set_user_attr", die)
        with pytest.raises(KilledError):
            driver.search.suggest("a")
    again = driver.restarted()
    assert again.queued() == {}
    assert again.start("b", "c") == [0, 1]


def test_no_trial_begins_once_the_time_is_over(root: str) -> None:
    driver = Driver(root, changes={"time_budget": "30s"})
    driver.start("a")
    driver.now = 29.9
    assert driver.start("b") == [1]
    driver.now = 30.0
    assert driver.search.suggest("c") == Searcher.FINISHED
    assert len(driver.trials()) == 2


def test_trial_that_the_time_cut_has_no_row_and_goes_on_with_the_study(root: str) -> None:
    driver = Driver(root, changes={"time_budget": "30s"})
    driver.start("a", "b")
    parameters = driver.search.lookup("a")[1]
    driver.now = 31.0
    assert driver.time_budget("a", {"epoch": 1})
    driver.end("a", 0.4, epoch=1)
    assert not driver.time_budget("b", {"epoch": 2})  # its last: it's complete
    driver.end("b", 0.6)
    assert driver.ended == [1]
    assert driver.states() == ["RUNNING", "COMPLETE"]
    again = replace(driver.restarted(), now=0.0)
    assert again.queued() == {0: parameters}
    assert again.start("c") == [0]


def test_budget_begins_anew_with_every_command_and_none_is_never_over(tmp_path: Path) -> None:
    now = 1000.0
    config = make_config(tmp_path)
    assert not TimeBudget(config, lambda: now * 1e6).is_over()
    budget = TimeBudget(replace(config, study=replace(config.study, time_budget="1m")), lambda: now)
    now += 59.0
    assert not budget("a", {"epoch": 1})
    assert not budget.is_over()
    now += 1.0
    assert budget.is_over()
    assert budget("a", {"epoch": 1})
    assert not budget.stop_all()


def test_conditional_trials_that_ran_when_the_driver_died_are_queued_as_they_were(root: str) -> None:
    driver = Driver(root, changes={"space": SPACE})
    names = "abcdefgh"
    driver.start(*names)
    parameters = {driver.search.lookup(name)[0]: driver.search.lookup(name)[1] for name in names}
    assert {"matching.temperature" in own for own in parameters.values()} == {True, False}
    driver.end("a")
    again = driver.restarted()
    assert again.queued() == {number: own for number, own in parameters.items() if number > 0}
    again.start("x", "y")
    assert [again.search.lookup(name)[1] for name in "xy"] == [parameters[1], parameters[2]]


def test_conditional_trials_are_known_again_where_the_journal_is_lost(root: str) -> None:
    driver = Driver(root, changes={"space": SPACE})
    for name in "abcdefgh":
        driver.start(name)
        driver.end(name)
    again = driver.restarted(keeps_journal=False)
    assert [again.parameters(trial) for trial in again.trials()] == [driver.rows[number][0] for number in range(8)]


def test_driver_lost_between_two_copies_of_its_journal_continues_with_what_the_rows_know(object_store: str) -> None:
    driver = Driver(object_store)
    driver.start("a", "b")
    assert driver.copy is not None
    driver.copy.put()
    running = driver.search.lookup("b")[1]
    driver.end("a", 0.25)
    driver.start("c", "d")
    driver.end("c", 0.75)
    again = driver.restarted(keeps_journal=False)
    ended = [trial for trial in again.trials() if trial.state == TrialState.COMPLETE]
    assert {t.user_attrs["number"]: (t.value, again.parameters(t)) for t in ended} == {
        0: (0.25, driver.rows[0][0]), 2: (0.75, driver.rows[2][0])
    }  # fmt: skip
    assert again.queued() == {1: running}
    assert again.start("x", "y") == [1, 3]  # the draw of d is lost


def test_trial_that_died_before_it_was_drawn_as_a_whole_is_not_run(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = optuna.Trial.suggest_float

    def die(trial: optuna.Trial, name: str, *bounds: float, **options: Any) -> float:
        if name == "matching.temperature":
            raise KilledError
        return draw(trial, name, *bounds, **options)

    driver = Driver(root, changes={"space": {**SPACE, "matching.kind": ["logits"]}})
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Trial, "suggest_float", die)
        with pytest.raises(KilledError):
            driver.search.suggest("a")
    assert "matching.kind" in driver.trials()[0].params
    again = driver.restarted()
    assert again.queued() == {}
    assert again.start("b") == [0]
