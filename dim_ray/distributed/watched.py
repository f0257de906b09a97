"""Runs of several workers, and how far they are.

run_watched(prior_shards, work, placement, what="prior", costs={"prior": 1.0}, on_progress=advance(progress, 0, 1))
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import ray

from dim_ray.distributed.board import make_board, summarise
from dim_ray.distributed.bridge import pass_on_notices
from dim_ray.distributed.cluster.placement import Placement
from dim_ray.distributed.tasks import OnProgress
from dim_ray.distributed.trainer import WorkerJob, run_workers
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress import Progress
from dim_ray.store.files.filesystem import open_root

__all__ = ["advance", "device_type", "ray_path", "run_watched", "watching"]

_SECONDS_BETWEEN_LOOKS = 0.5


def ray_path(work: Workspace) -> str:
    """Returns where Ray keeps its own state of a study."""
    return open_root(work.config.storage.root).uri_of(f"studies/{work.study}/ray")


@contextmanager
def watching(
    board: Any, costs: Mapping[str, float] | None = None, on_progress: OnProgress | None = None
) -> Iterator[None]:
    """Reads a board while the body runs, and once more when it has ended: passes its notices on; ends the board.

    Args:
        board: The actor.
        costs: What each job takes, in any one unit; needed where progress is told.
        on_progress: Is told how far they are.
    """
    ended = threading.Event()

    def watch() -> None:
        is_last = False
        with suppress(ray.exceptions.RayError):  # the run itself says what is wrong
            while not is_last:
                is_last = ended.wait(_SECONDS_BETWEEN_LOOKS)
                pass_on_notices(board)
                if costs and on_progress and (fractions := ray.get(board.read.remote())):
                    on_progress(*summarise(fractions, costs))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        ray.kill(board)


def run_watched(
    job: WorkerJob,
    work: Workspace,
    placement: Placement,
    *,
    what: str,
    costs: Mapping[str, float] | None = None,
    on_progress: OnProgress | None = None,
    is_elastic: bool = False,
) -> None:
    """Runs a job on several workers, and tells how far it is.

    Args:
        job: Of each worker.
        work: Data and storage.
        placement: Workers, and what each of them holds.
        what: The run is called so.
        costs: What each name that the workers report under takes, in any one unit; needed where progress is told.
        on_progress: Is told how far they are.
        is_elastic: As for `run_workers`.
    """
    board = make_board()
    with watching(board, costs, on_progress):
        run_workers(
            job,
            ray.put(work),
            placement,
            what=what,
            name=f"{what.replace(' ', '-')}-{time.time_ns()}",
            storage_path=ray_path(work),
            max_failures=work.config.study.max_failures,
            board=board,
            is_elastic=is_elastic,
        )


def advance(progress: Progress, done: int, size: int) -> OnProgress:
    """Returns what moves a stage through `size` of its units, after `done` of them; one job needs no note."""
    return lambda share, note: progress.advance(done + size * share, note if size > 1 else "")


def device_type(placement: Placement) -> str:
    """Returns the kind of device that a worker trains on: ``cuda`` or ``cpu``."""
    return "cuda" if placement.gpus_per_worker else "cpu"
