"""The reporters of stages under Ray and what the driver hears of them, with Ray's ends replaced."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray

from dim_ray.distributed import bridge
from dim_ray.distributed.board import summarise
from dim_ray.distributed.bridge import BoardReporter, RungReporter, told_to, watching
from dim_ray.progress.notices import log, told
from tests.helpers.local_board import LocalBoard, Method
from tests.helpers.tiny import RecordingReporter


class EndingBoard(LocalBoard):
    """A board that can be killed."""

    is_ended = False

    def end(self) -> None:
        def refuse() -> None:
            raise ray.exceptions.ActorDiedError

        self.is_ended = True
        self.read = self.take_notices = Method(refuse)


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> EndingBoard:
    """The board that `watching` makes; it is read only when the body has ended."""
    board = EndingBoard()
    monkeypatch.setattr(ray, "get", lambda value: value)
    monkeypatch.setattr(ray, "kill", EndingBoard.end)
    monkeypatch.setattr(bridge, "make_board", lambda: board)
    monkeypatch.setattr(bridge, "_SECONDS_BETWEEN_LOOKS", 600.0)
    return board


@pytest.fixture
def shown() -> Iterator[list[str]]:
    texts: list[str] = []
    with told(texts.append):
        yield texts


def fail_after(action: Callable[..., None], *arguments: str) -> None:
    action(*arguments)
    raise ZeroDivisionError


def test_board_knows_how_far_every_job_is() -> None:
    board = LocalBoard()
    BoardReporter(board, "teacher 0").report(1, 4, {"loss": 1.0})
    BoardReporter(board, "teacher 1").report(3, 3, {})
    assert board.read.remote() == {"teacher 0": 0.25, "teacher 1": 1.0}


def test_summary_weighs_jobs_by_their_cost_and_names_those_that_run() -> None:
    costs = {"teacher 0": 6.0, "teacher 1": 2.0, "teacher 2": 2.0, "teacher 3": 2.0}
    assert summarise({}, costs) == (0.0, "")
    fractions = {"teacher 0": 0.5, "teacher 1": 1.0, "teacher 2": 0.25, "another": 0.5}
    assert summarise(fractions, costs) == (pytest.approx(5.5 / 12), "teacher 0 50%, teacher 2 25%")
    everyone = dict.fromkeys([f"teacher {number}" for number in range(7)], 0.5)
    assert summarise(everyone, dict.fromkeys(everyone, 1.0))[1].endswith("teacher 3 50%, 3 more")


def test_reporter_posts_at_most_twice_a_second_and_always_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert board.read.remote() == {"prior": 1.0}


def test_warning_of_a_worker_reaches_the_user_once(board: EndingBoard) -> None:
    with told_to(board):  # in a worker's process
        log.warning("the disk of %s is full", "node 2")
        log.info("only for the log")
    log.warning("posted nowhere")
    shown: list[str] = []
    with told(shown.append), watching():
        pass
    assert shown == ["the disk of node 2 is full"]


def test_notice_of_the_last_moment_reaches_the_user(board: EndingBoard, shown: list[str]) -> None:
    with watching():
        board.tell.remote("the disk of node 2 is full")
    assert shown == ["the disk of node 2 is full"]
    assert board.is_ended


def test_notice_before_a_failure_reaches_the_user_beside_the_error(board: EndingBoard, shown: list[str]) -> None:
    with pytest.raises(ZeroDivisionError), watching():
        fail_after(board.tell.remote, "the disk of node 2 is full")
    assert shown == ["the disk of node 2 is full"]
    assert board.is_ended


def test_progress_is_passed_on_to_the_end(board: EndingBoard) -> None:
    seen: list[tuple[float, str]] = []
    with watching({"prior": 1.0, "teacher 0": 3.0}, lambda share, note: seen.append((share, note))):
        board.post.remote("teacher 0", 1.0)
        board.post.remote("prior", 0.5)
    assert seen == [(0.875, "prior 50%")]


def test_late_post_does_not_reopen_a_finished_job() -> None:
    board = LocalBoard()
    for done in (0.5, 1.0, 0.97):
        board.post.remote("prior", done)
    assert board.read.remote() == {"prior": 1.0}


def test_error_of_the_display_ends_the_run_after_its_work(board: EndingBoard) -> None:
    def show(share: float, note: str) -> None:
        raise BrokenPipeError("stderr is closed")

    done: list[str] = []
    board.post.remote("prior", 0.5)
    with pytest.raises(BrokenPipeError, match="stderr is closed"), watching({"prior": 1.0}, show):
        done.append("work")
    assert done == ["work"]
    assert board.is_ended


def test_board_that_died_hides_no_error_of_the_run(board: EndingBoard) -> None:
    with pytest.raises(ZeroDivisionError), watching({"prior": 1.0}, lambda share, note: None):
        fail_after(board.end)


@pytest.mark.parametrize("with_last", [True, False])
def test_validations_of_rungs_are_handed_over_by_every_worker(with_last: bool) -> None:
    reports: list[dict[str, Any]] = []
    also = RecordingReporter()
    reporter = RungReporter(also, reports.append, with_last=with_last)
    reporter.report(1, 6, {"loss": 1.0})
    reporter.report(2, 6, {"loss": 1.0, "validated_epoch": 2, "validation_accuracy": 0.2})
    reporter.report(3, 6, {"validated_epoch": 3})  # of a worker that doesn't measure
    reporter.report(6, 6, {"validated_epoch": 6, "validation_accuracy": 0.6})
    last = [{"epoch": 6, "validation_accuracy": 0.6}] * with_last
    assert reports == [{"epoch": 2, "loss": 1.0, "validation_accuracy": 0.2}, {"epoch": 3}, *last]
    assert also.steps == [1, 2, 3, 6]
