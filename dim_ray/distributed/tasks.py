"""Independent jobs as Ray tasks over the whole cluster.

run_tasks(work, {"teacher 0": Task(job=build_teachers, argument=[0]), ...}, placement, on_progress=print)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray

from dim_ray.core.training.ports import Reporter
from dim_ray.distributed.bridge import BoardReporter, OnProgress, told_to, watching
from dim_ray.distributed.cluster.held import on_held_device
from dim_ray.distributed.cluster.placement import Placement
from dim_ray.errors import DimError
from dim_ray.pipeline.workspace import Workspace

__all__ = ["Job", "Task", "run_tasks", "worker_died"]

_MAX_RETRIES = 2  # of a task whose worker died; what it had stored is found again

Job = Callable[[Workspace, Any, Reporter], None]
"""A function of the workspace on the worker's device, one argument and a reporter."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One call of a job."""

    job: Job
    """An importable function."""
    argument: Any
    cost: float = 1.0
    """In any unit that all tasks share; weighs the task's part of the progress."""


def run_tasks(work: Workspace, tasks: Mapping[str, Task], placement: Placement, *, on_progress: OnProgress) -> None:
    """Run tasks, as many at a time as the cluster holds.

    Args:
        work: The workspace of every job; sent to each node once.
        tasks: Tasks by name, in the order in which they start.
        placement: What one task holds.
        on_progress: Receives progress, from a thread.

    Raises:
        DimError: A job failed with this error, or its process died too often; the other jobs were stopped.
        ray.exceptions.RayTaskError: A job has a defect.
    """
    held = {"num_cpus": placement.cpus_per_worker, "num_gpus": placement.gpus_per_worker}
    remote = ray.remote(**held, max_retries=_MAX_RETRIES)(_run)
    with watching({name: task.cost for name, task in tasks.items()}, on_progress) as board:
        shared = ray.put(work)
        running = {  # the name is what Ray's messages, its dashboard and the list of processes show
            remote.options(name=name).remote(task.job, shared, task.argument, board, name): name
            for name, task in tasks.items()
        }
        try:
            while running:
                [reference], _ = ray.wait(list(running))
                name = running.pop(reference)
                _check(reference, name)
                board.post.remote(name, 1.0)  # a job that found its work done reports nothing
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


def worker_died(name: str, error: Exception) -> DimError:
    """Return the error of a job whose process died too often, as Ray's error says."""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return DimError(
        f"the process of {name} died too often ({reason.rstrip('.')}). Most often memory is too small: let fewer run "
        "side by side, by giving each more cores with study.cpus_per_worker. Finished work is kept; run the same "
        "command again to continue. The log has the details."
    )


def _check(reference: Any, name: str) -> None:
    """Raise the error of a task that failed, in a form that a user can read."""
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, DimError):
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:
        raise worker_died(name, error) from error


def _run(job: Job, work: Workspace, argument: Any, board: Any, name: str) -> None:
    with told_to(board):
        job(on_held_device(work), argument, BoardReporter(board, name))
