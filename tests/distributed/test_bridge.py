"""The reporters of stages under Ray, with Ray's ends of them replaced."""

from __future__ import annotations

import time
from typing import Any

import pytest
import ray
import ray.train

from dim_ray.distributed.board import summarise
from dim_ray.distributed.bridge import BoardReporter, TrainReporter, pass_on_notices, told_to
from dim_ray.progress.notices import log, told
from tests.helpers.local_board import LocalBoard
from tests.helpers.tiny import RecordingReporter


def test_board_knows_how_far_every_job_is() -> None:
    board = LocalBoard()
    BoardReporter(board, "teacher 0").report(1, 4, {"loss": 1.0})
    BoardReporter(board, "teacher 1").report(3, 3, {})
    assert board.read() == {"teacher 0": 0.25, "teacher 1": 1.0}


def test_summary_weighs_jobs_by_their_cost_and_names_those_that_run() -> None:
    costs = {"teacher 0": 6.0, "teacher 1": 2.0, "teacher 2": 2.0, "teacher 3": 2.0}
    assert summarise({}, costs) == (0.0, "")
    fractions = {"teacher 0": 0.5, "teacher 1": 1.0, "teacher 2": 0.25, "another": 0.5}
    assert summarise(fractions, costs) == (pytest.approx(5.5 / 12), "teacher 0 50%, teacher 2 25%")
    everyone = dict.fromkeys([f"teacher {number}" for number in range(7)], 0.5)
    assert summarise(everyone, dict.fromkeys(everyone, 1.0))[1].endswith("teacher 3 50%, 3 more")


def test_board_is_not_told_more_often_than_twice_a_second_but_always_of_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    board = LocalBoard()
    reporter = BoardReporter(board, "prior")
    for step in range(1, 41):  # eight reports a second, for five seconds
        reporter.report(step, 41, {})
        now += 0.125
    assert board.num_posts == 10
    reporter.report(41, 41, {})
    assert board.num_posts == 11
    assert board.read() == {"prior": 1.0}


def test_what_a_worker_says_of_the_storage_reaches_the_person_at_the_driver_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray, "get", lambda value: value)
    board, shown = LocalBoard(), list[str]()
    with told_to(board):
        log.warning("the disk of %s is full", "node 2")
        log.info("for the log alone")
    with told(shown.append):
        pass_on_notices(board)
        pass_on_notices(board)
    log.warning("nobody is told any more")
    pass_on_notices(board)
    assert shown == ["the disk of node 2 is full"]


def test_ray_train_is_told_the_validations_but_the_last_one_by_every_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr(ray.train, "report", reports.append)
    also = RecordingReporter()
    reporter = TrainReporter(also)
    reporter.report(1, 6, {"loss": 1.0})
    reporter.report(3, 6, {"loss": 1.0, "validated_epoch": 2, "validation_accuracy": 0.2})  # it took its time
    reporter.report(6, 6, {"validated_epoch": 4, "validation_accuracy": 0.4})
    reporter.report(6, 6, {"validated_epoch": 6, "validation_accuracy": 0.6})
    assert reports == [
        {"epoch": 2, "validation_accuracy": 0.2},  # the loss was that of epoch 3
        {"epoch": 4, "validation_accuracy": 0.4},
    ]
    assert also.steps == [1, 3, 6, 6]
    other_worker = TrainReporter(RecordingReporter())
    other_worker.report(3, 6, {"validated_epoch": 2})
    assert reports[-1] == {"epoch": 2}
