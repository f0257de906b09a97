"""Independent jobs over the whole cluster: as Ray tasks on CPUs, and in actors that live longer on GPUs.

run_tasks(work, {"teacher 0": Task(job=build_teachers, argument=[0]), ...}, placement, on_progress=print)
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import ray

from dim_ray.core.training.ports import Reporter
from dim_ray.distributed.board import is_given_up
from dim_ray.distributed.bridge import BoardReporter, OnProgress, told_to, watching
from dim_ray.distributed.cluster.held import on_held_device
from dim_ray.distributed.cluster.placement import Placement
from dim_ray.errors import DimError
from dim_ray.pipeline.workspace import Workspace

__all__ = ["Job", "Task", "run_tasks", "worker_died"]

_MAX_RETRIES = 2  # of a job whose process died by itself; what it had stored is found again

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
    run = _run_in_slots if placement.gpus_per_worker else _run_each
    with (
        watching({name: task.cost for name, task in tasks.items()}, on_progress) as board,
        closing(run(ray.put(work), tasks, placement, board)) as ended,  # closing stops what still runs
    ):
        for name in ended:
            board.post.remote(name, 1.0)  # a job that found its work done reports nothing


def worker_died(name: str, error: Exception) -> DimError:
    """Return the error of a job whose process died too often, as Ray's error says."""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return DimError(
        f"the process of {name} died too often ({reason.rstrip('.')}). Most often memory is too small: let fewer run "
        "side by side, by giving each more cores with study.cpus_per_worker. Finished work is kept; run the same "
        "command again to continue. The log has the details."
    )


def _run_each(shared: Any, tasks: Mapping[str, Task], placement: Placement, board: Any) -> Generator[str, None, None]:
    """Run each job as a Ray task, and yield the names in the order in which they end."""
    # Ray's own retries would count lost nodes too.
    remote = ray.remote(num_cpus=placement.cpus_per_worker, num_gpus=0, max_retries=0)(_run)
    running, deaths = dict[Any, str](), Counter[str]()

    def start(name: str) -> None:
        # The name is what Ray's messages, its dashboard and the list of processes show.
        reference = remote.options(name=name).remote(tasks[name].job, shared, tasks[name].argument, board, name)
        running[reference] = name

    try:
        for name in tasks:
            start(name)
        while running:
            [reference], _ = ray.wait(list(running))
            name = running.pop(reference)
            if (death := _find_death(reference)) is None:
                yield name
                continue
            _count(name, death, deaths, board)
            start(name)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _run_in_slots(
    shared: Any, tasks: Mapping[str, Task], placement: Placement, board: Any
) -> Generator[str, None, None]:
    """Run the jobs in slots, and yield the names in the order in which they end.

    While jobs wait, so do more slots: an autoscaler sees them, and a node that joins has work. A slot without work
    ends, and leaves its GPU to others.
    """
    remote = ray.remote(num_cpus=placement.cpus_per_worker, num_gpus=placement.gpus_per_worker)(_Slot)
    waiting, deaths = deque(tasks), Counter[str]()
    calls: dict[Any, tuple[Any, str]] = {}  # slots, each with the name of its job, or its own while it starts
    slot_names = (f"worker {number}" for number in itertools.count())

    def start(name: str) -> None:
        if len(waiting) > sum(name not in tasks for _, name in calls.values()):
            slot = remote.remote(shared, board)
            calls[slot.begin.remote()] = slot, name

    try:
        for _ in range(placement.num_slots):
            start(next(slot_names))
        while waiting or any(name in tasks for _, name in calls.values()):
            [reference], _ = ray.wait(list(calls))
            slot, name = calls[reference]
            is_job, death = name in tasks, _find_death(reference)
            del calls[reference]
            if death is not None:
                _count(name, death, deaths, board)
                if is_job:
                    waiting.appendleft(name)
                start(next(slot_names) if is_job else name)
                continue
            if waiting:
                job = waiting.popleft()
                calls[slot.run.options(name=job).remote(tasks[job].job, tasks[job].argument, job)] = slot, job
            else:
                ray.kill(slot)
            if is_job:
                yield name
            else:
                start(next(slot_names))
    finally:
        for slot, _ in calls.values():
            ray.kill(slot)


def _count(name: str, death: ray.exceptions.RayError, deaths: Counter[str], board: Any) -> None:
    """Count the death of a job's process, and raise an error if it is one too many."""
    deaths[name] += 1
    if deaths[name] > _MAX_RETRIES and is_given_up(ray.get(board.nodes.remote(name)), deaths[name], _MAX_RETRIES):
        raise worker_died(name, death) from death


def _find_death(reference: Any) -> ray.exceptions.RayError | None:
    """Return the error of a call whose process died; raise that of one that failed, in a form that a user can read."""
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, DimError):
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:
        return error
    return None


class _Slot:
    """An actor that holds a GPU and runs jobs one after the other.

    For each task with a GPU, Ray would start a process: seconds of imports for what are often seconds of training.
    """

    def __init__(self, work: Workspace, board: Any) -> None:
        self._work = work
        self._board = board

    def begin(self) -> None:
        """Answer that there is room for this slot."""

    def run(self, job: Job, argument: Any, name: str) -> None:
        """Run a job."""
        self._work = on_held_device(self._work)  # it stays there
        _run(job, self._work, argument, self._board, name)


def _run(job: Job, work: Workspace, argument: Any, board: Any, name: str) -> None:
    board.begin.remote(name, ray.get_runtime_context().get_node_id())
    with told_to(board):
        job(on_held_device(work), argument, BoardReporter(board, name))
