"""Progress and notices of jobs, passed on to the driver, and validations, passed on to Ray.

with watching({"prior": 1.0}, on_progress) as board:
    ...                                 # start jobs; each reports through BoardReporter(board, "prior")
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import ray

from dim_ray.core.training.ports import Reporter
from dim_ray.distributed.board import Board, make_board, summarise
from dim_ray.pipeline.validation import validation_in
from dim_ray.progress.notices import log, told

__all__ = ["BoardReporter", "OnProgress", "RungReporter", "told_to", "watching"]

_SECONDS_BETWEEN_POSTS = 0.5
_SECONDS_BETWEEN_LOOKS = 0.5

OnProgress = Callable[[float, str], None]
"""Receives the share of all work that is done, in [0, 1], and a note on the jobs that are running."""


@contextmanager
def watching(
    costs: Mapping[str, float] | None = None,
    on_progress: OnProgress | None = None,
    *,
    on_fractions: Callable[[Mapping[str, float]], None] | None = None,
) -> Iterator[ray.actor.ActorHandle[Board]]:
    """Yield a new board, and pass on what is posted to it until the body has ended.

    Notices go to the driver's log, and so to the user.

    Args:
        costs: Cost of each job, in any one unit. Without, progress isn't passed on.
        on_progress: Called twice a second, from a thread.
        on_fractions: The same, with the fraction done of each job that has reported.
    """
    board, ended = make_board(), threading.Event()
    failures: list[Exception] = []  # of the display, such as a closed stderr

    def watch() -> None:
        is_last = False
        try:
            while not is_last:
                is_last = ended.wait(_SECONDS_BETWEEN_LOOKS)
                for text in ray.get(board.take_notices.remote()):
                    log.warning("%s", text)
                fractions = ray.get(board.read.remote())
                if fractions and costs and on_progress:
                    on_progress(*summarise(fractions, costs))
                if fractions and on_fractions:
                    on_fractions(fractions)
        except ray.exceptions.RayError:  # the run itself says what is wrong
            pass
        except Exception as error:
            failures.append(error)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield board
    finally:
        ended.set()
        watcher.join()
        ray.kill(board)
    if failures:
        raise failures[0]


def told_to(board: Any) -> AbstractContextManager[None]:
    """Post this process's notices to a board while the body runs."""
    return told(lambda text: board.tell.remote(text))


class BoardReporter:
    """A Reporter that posts progress to a board, at most twice a second.

    Args:
        board: The actor.
        job: The job's name on the board.
    """

    def __init__(self, board: ray.actor.ActorHandle[Board], job: str) -> None:
        self._board = board
        self._job = job
        self._last = 0.0

    def report(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        self.advance(step, total)

    def advance(self, done: float, total: int, note: str = "") -> None:
        now = time.monotonic()
        if done == total or now - self._last >= _SECONDS_BETWEEN_POSTS:
            self._last = now
            self._board.post.remote(self._job, done / total)


class RungReporter:
    """A Reporter that hands validations to Ray Tune or Ray Train, and everything to another one.

    Args:
        also: The other one.
        report: `ray.tune.report` or `ray.train.report`.
        with_last: Whether to hand over that of the last epoch. Several workers leave it to their trial: a scheduler
            stops the trial then, and would cut off workers that still hold their resources.
    """

    def __init__(self, also: Reporter, report: Callable[[dict[str, float]], None], *, with_last: bool) -> None:
        self._also = also
        self._report = report
        self._with_last = with_last

    def report(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        self._also.report(step, total, metrics)
        measured = validation_in(metrics)
        if measured is not None and (self._with_last or step < total):
            self._report({"epoch": step, **measured})

    def advance(self, done: float, total: int, note: str = "") -> None:
        self._also.advance(done, total, note)
