"""One stage on several workers, through Ray Train.

Teachers are dealt to the workers by what they cost, and trained apart. In a distillation worker r holds every W-th of
them, and gradients are averaged by `TorchCollective` over the process group that Ray Train sets up. State lives in the
storage, so a worker that died is started again and goes on from the last checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from dim_ray.core.training.collective import TorchCollective
from dim_ray.core.training.ports import Collective, Reporter
from dim_ray.distributed.bridge import BoardReporter, TrainReporter, told_to
from dim_ray.distributed.cluster.held import held_resources, on_held_device
from dim_ray.distributed.cluster.placement import Placement
from dim_ray.distributed.tasks import worker_died
from dim_ray.distributed.validator import SlotValidator
from dim_ray.errors import DimError
from dim_ray.pipeline.generators import distill_generator
from dim_ray.pipeline.priors import build_prior
from dim_ray.pipeline.teachers import build_teachers
from dim_ray.pipeline.workspace import Workspace

__all__ = [
    "DISTILLATION",
    "PRIOR",
    "ReportTo",
    "WorkerJob",
    "deal",
    "distill_shards",
    "prior_shards",
    "run_workers",
    "teacher_shards",
    "trial_shards",
]

_DEATHS = (WorkerHealthCheckFailedError, ray.exceptions.RayActorError)

PRIOR, DISTILLATION = "prior", "distillation"
"""Names under which workers that train together report."""

ReportTo = Callable[[str], Reporter]
"""Gives a reporter of one job."""

WorkerJob = Callable[[Workspace, ReportTo, Collective], None]
"""What every worker runs; importable."""


def run_workers(
    job: WorkerJob,
    work: Any,
    placement: Placement,
    *,
    what: str,
    name: str,
    storage_path: str,
    max_failures: int,
    board: Any,
    callbacks: Sequence[Any] = (),
    is_elastic: bool = False,
) -> None:
    """Runs a job on all workers of a placement and waits for its end.

    Args:
        job: For example `distill_shards`.
        what: It's called so in errors.
        work: Object reference to the workspace.
        placement: Workers and what each of them holds.
        name: Of the run, below `storage_path`.
        storage_path: Where Ray Train keeps its own state.
        max_failures: How often a dead worker is replaced.
        board: Where the workers post their progress, and what a person should know.
        callbacks: Ray Train's.
        is_elastic: Whether fewer workers may do the job where a node is lost and no other has room.

    Raises:
        DimError: The error that a worker ended with, or workers died too often.
        ray.train.TrainingFailedError: A worker ended with a defect.
    """
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"job": job, "work": work, "board": board},
        scaling_config=ray.train.ScalingConfig(
            num_workers=(1, placement.num_workers) if is_elastic else placement.num_workers,
            use_gpu=placement.gpus_per_worker > 0,
            resources_per_worker={"CPU": placement.cpus_per_worker, "GPU": placement.gpus_per_worker},
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=storage_path,
            failure_config=ray.train.FailureConfig(max_failures=max_failures),
            callbacks=list(callbacks),
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        failures = list(getattr(error, "worker_failures", {}).values())
        for failure in failures:
            if isinstance(failure, DimError):
                raise failure from error
        for failure in failures:  # what the others end with is that they lost it
            if isinstance(failure, _DEATHS):
                raise worker_died(what, failure) from error
        raise


def teacher_shards(
    groups: Mapping[str, tuple[Sequence[int], float]], work: Workspace, report_to: ReportTo, collective: Collective
) -> None:
    """Trains this worker's share of groups of teachers.

    Args:
        groups: By name, the numbers of teachers that are trained at once, and what that costs; the same everywhere.
        work: Data and storage.
        report_to: Gives a reporter of each group.
        collective: Says which share is this worker's.
    """
    names = list(groups)
    for index in deal([cost for _, cost in groups.values()], collective.num_workers)[collective.rank]:
        numbers, _ = groups[names[index]]
        reporter = report_to(names[index])
        build_teachers(work, numbers, reporter)
        reporter.report(1, 1, {})  # also where the storage held them


def deal(costs: Sequence[float], num_workers: int) -> list[list[int]]:
    """Deals jobs to workers: the longest first, each to the worker that has least to do.

    The last to end takes at most 4/3 of the time of the best division (Graham, SIAM J. Appl. Math. 17, 1969).

    Args:
        costs: Of each job.
        num_workers: At least 1.

    Returns:
        For each worker the numbers of its jobs, dearest first.
    """
    shares: list[list[int]] = [[] for _ in range(num_workers)]
    loads = [0.0] * num_workers
    for job in sorted(range(len(costs)), key=lambda job: (-costs[job], job)):
        worker = loads.index(min(loads))
        shares[worker].append(job)
        loads[worker] += costs[job]
    return shares


def prior_shards(work: Workspace, report_to: ReportTo, collective: Collective) -> None:
    """Trains the prior, all workers together."""
    build_prior(work, report_to(PRIOR), collective)


def distill_shards(work: Workspace, report_to: ReportTo, collective: Collective) -> None:
    """Distils, each worker against its shard of the pool."""
    distill_generator(work, report_to(DISTILLATION), collective)


def trial_shards(work: Workspace, report_to: ReportTo, collective: Collective) -> None:
    """Distils as `distill_shards`, validates at the rungs and reports those through Ray Train."""
    distill_generator(work, TrainReporter(report_to(DISTILLATION)), collective, SlotValidator(work, held_resources()))


def _worker(settings: dict[str, Any]) -> None:
    work = on_held_device(ray.get(settings["work"]))
    collective = TorchCollective(work.dataset.train.images.device)
    with told_to(settings["board"]):
        settings["job"](work, lambda job: BoardReporter(settings["board"], job), collective)
