"""Independent jobs as Ray tasks over the whole cluster, with their progress.

run_tasks(work, {"teacher 0": Task(job=build_teachers, argument=[0]), ...}, placement, on_progress=print)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray

from dim_ray.core.training.ports import Reporter
from dim_ray.distributed.board import make_board, summarise
from dim_ray.distributed.bridge import BoardReporter, pass_on_notices, told_to
from dim_ray.distributed.cluster.held import on_held_device
from dim_ray.distributed.cluster.placement import Placement
from dim_ray.distributed.leases import Claims, Waits
from dim_ray.errors import DimError
from dim_ray.pipeline.workspace import Workspace

__all__ = ["Job", "OnProgress", "Task", "run_tasks", "worker_died"]

_SECONDS_BETWEEN_LOOKS = 0.5
_MAX_RETRIES = 2  # of a task whose worker died; what it had built is found again

Job = Callable[[Workspace, Any, Reporter], Any]
"""A function of the workspace on the worker's device, one argument and a reporter.

It may return a list of `Held`, what it left because others build it, and is run again when some of that is free.
"""

OnProgress = Callable[[float, str], None]
"""Is told the share of all work that is done, in [0, 1], and how far each running job is."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A call of a job."""

    job: Job
    """Importable."""
    argument: Any
    """Of the job."""
    cost: float = 1.0
    """What it takes, in any unit that all tasks share; weighs its part of the progress."""


def run_tasks(
    work: Workspace,
    tasks: Mapping[str, Task],
    placement: Placement,
    *,
    on_progress: OnProgress,
    claims: Claims | None = None,
) -> None:
    """Runs jobs, as many at a time as the resources hold.

    Args:
        work: What every job works on; sent to each node once.
        tasks: By name, in the order in which they start.
        placement: What one job holds.
        on_progress: Is told how far the work is; first when it begins.
        claims: With which the jobs claim, if they do.

    Raises:
        DimError: The error of the first job that failed with one, after the others were stopped.
        DimError: A job's process died too often.
        ray.exceptions.RayTaskError: A job has a defect.
    """
    board = make_board()
    shared = ray.put(work)
    held = {"num_cpus": placement.cpus_per_worker, "num_gpus": placement.gpus_per_worker}
    remote = ray.remote(**held, max_retries=_MAX_RETRIES)(_run)

    def start(name: str) -> Any:
        # The name is what Ray's own messages, its dashboard and the list of processes say of a task.
        return remote.options(name=name).remote(tasks[name].job, shared, tasks[name].argument, board, name)

    running = {start(name): name for name in tasks}
    costs = {name: task.cost for name, task in tasks.items()}
    ended: dict[str, float] = {}
    waits = Waits(claims)
    try:
        while running or waits:
            if running:
                ready, _ = ray.wait(list(running), num_returns=len(running), timeout=_SECONDS_BETWEEN_LOOKS)
            else:
                ready = []
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            for reference in ready:
                name = running.pop(reference)
                left = _take(reference, name)
                if left:
                    waits.add(name, left)
                else:
                    ended[name] = 1.0
            running |= {start(name): name for name in waits.take_free()}
            fractions = {**ray.get(board.read.remote()), **ended}
            pass_on_notices(board)
            if fractions or waits:
                share, note = summarise(fractions, costs)
                on_progress(share, "; ".join(filter(None, [note, waits.note()])))
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
        with suppress(ray.exceptions.RayError):  # why the work ended is said already
            pass_on_notices(board)
        ray.kill(board)


def worker_died(name: str, error: Exception) -> DimError:
    """Returns the error of a job whose process died too often.

    Args:
        name: Of the job.
        error: Ray's.
    """
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return DimError(
        f"the process of {name} died too often to be started again ({reason.rstrip('.')}). Most often the memory is "
        "too small: fewer run side by side where each takes more cores, with study.cpus_per_worker. What is "
        "finished is kept; the same command goes on. Details are in the log."
    )


def _take(reference: Any, name: str) -> Any:
    """Returns a task's result, or raises what a person should read."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, DimError):
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:
        raise worker_died(name, error) from error


def _run(job: Job, work: Workspace, argument: Any, board: Any, name: str) -> Any:
    with told_to(board):
        return job(on_held_device(work), argument, BoardReporter(board, name))
