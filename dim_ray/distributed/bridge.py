"""The ports of a stage under Ray: progress and notices to the driver's board, measurements to Ray Train."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import ray
import ray.train

from dim_ray.core.training.ports import Reporter
from dim_ray.distributed.board import Board
from dim_ray.pipeline.validation import validation_in
from dim_ray.progress.notices import log, told

__all__ = ["BoardReporter", "TrainReporter", "pass_on_notices", "told_to"]

_SECONDS_BETWEEN_POSTS = 0.5


def told_to(board: Any) -> AbstractContextManager[None]:
    """Posts what a person should know to a board, while the body runs."""
    return told(lambda text: board.tell.remote(text))


def pass_on_notices(board: Any) -> None:
    """Puts what was posted since the last call into the driver's own log, and so before the person."""
    for text in ray.get(board.take_notices.remote()):
        log.warning("%s", text)


class BoardReporter:
    """A Reporter that posts to a board, at most twice a second.

    Args:
        board: The actor.
        job: The job's name on it.
    """

    def __init__(self, board: ray.actor.ActorHandle[Board], job: str) -> None:
        self._board = board
        self._job = job
        self._last = 0.0

    def report(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Posts step / total; the metrics are left out."""
        now = time.monotonic()
        if step == total or now - self._last >= _SECONDS_BETWEEN_POSTS:
            self._last = now
            self._board.post.remote(self._job, step / total)


class TrainReporter:
    """A Reporter that hands validations to Ray Train, all but the last: every worker gets those in the same calls.

    The end is the trial's own to report: a scheduler stops it there, and would cut off workers that still hold their
    resources.

    Args:
        also: Is told about every step.
    """

    def __init__(self, also: Reporter) -> None:
        self._also = also

    def report(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Reports the metrics of worker 0 with the `epoch` that they are of."""
        self._also.report(step, total, metrics)
        epoch, measured = validation_in(step, metrics) or (total, {})
        if 0 < epoch < total:  # a distillation of no epochs ends with 0
            ray.train.report({"epoch": epoch, **measured})
