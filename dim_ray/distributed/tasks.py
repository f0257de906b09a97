"""Independent jobs as Ray tasks over the whole cluster, with their progress.

run_tasks(work, {"teacher 0": (build_teacher, 0), ...}, placement, on_progress=print)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ray

from dim_ray.core.ports import Reporter
from dim_ray.distributed.board import make_board
from dim_ray.distributed.bridge import BoardReporter
from dim_ray.distributed.resources import Placement
from dim_ray.errors import DimError
from dim_ray.pipeline.workspace import Workspace, on_device

__all__ = ["run_tasks"]

_SECONDS_BETWEEN_LOOKS = 0.5
_MAX_RETRIES = 2  # of a task whose worker died; what it had built is found again

Job = Callable[[Workspace, Any, Reporter], Any]
"""A function of the workspace on the worker's device, one argument and a reporter."""


def run_tasks(
    work: Workspace,
    calls: Mapping[str, tuple[Job, Any]],
    placement: Placement,
    *,
    on_progress: Callable[[float], None],
) -> None:
    """Runs jobs, as many at a time as the resources hold.

    Args:
        work: What every job works on; sent to each node once.
        calls: By name, an importable function and its argument, in the order in which they start.
        placement: What one job holds.
        on_progress: Is told the number of jobs done, with the fractions of those that run.

    Raises:
        DimError: The error of the first job that failed with one, after the others were stopped.
        ray.exceptions.RayError: A job's worker died too often, or a job has a defect.
    """
    board = make_board()
    shared = ray.put(work)
    task = ray.remote(num_cpus=placement.cpus_per_worker, num_gpus=placement.gpus_per_worker, max_retries=_MAX_RETRIES)(
        _run
    )
    running = {task.remote(job, shared, argument, board, name): name for name, (job, argument) in calls.items()}
    try:
        while running:
            ready, _ = ray.wait(list(running), num_returns=len(running), timeout=_SECONDS_BETWEEN_LOOKS)
            for reference in ready:
                ray.get(reference)
                del running[reference]
            fractions = ray.get(board.read.remote())
            on_progress(len(calls) - len(running) + sum(fractions.get(name, 0.0) for name in running.values()))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, DimError):
            raise error.cause from error
        raise
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
        ray.kill(board)


def _run(job: Job, work: Workspace, argument: Any, board: Any, name: str) -> Any:
    num_cpus = int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))
    return job(on_device(work, num_cpus), argument, BoardReporter(board, name))
