"""One stage on several workers, through Ray Train.

Worker r gets every W-th teacher; gradients are averaged by `TorchCollective` over the process group that Ray Train
sets up. State lives in the storage, so a worker that died is started again and goes on from the last checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from dim_ray.core.collective import TorchCollective
from dim_ray.core.pool import shard
from dim_ray.core.ports import Collective, Reporter, SilentReporter
from dim_ray.distributed.bridge import BoardReporter, TrainReporter, told_to
from dim_ray.distributed.resources import Placement
from dim_ray.distributed.tasks import worker_died
from dim_ray.errors import DimError
from dim_ray.pipeline.generators import distill_generator, rung_epochs
from dim_ray.pipeline.priors import build_prior
from dim_ray.pipeline.teachers import build_teacher, missing_teachers, pool_teachers
from dim_ray.pipeline.workspace import Workspace, on_device

__all__ = ["distill_shards", "prior_shards", "run_workers", "teacher_shards", "trial_shards"]

_DEATHS = (WorkerHealthCheckFailedError, ray.exceptions.RayActorError)

WorkerJob = Callable[[Workspace, Reporter, Collective], None]
"""What every worker runs; importable."""


def run_workers(
    job: WorkerJob,
    work: Any,
    placement: Placement,
    *,
    name: str,
    storage_path: str,
    max_failures: int,
    board: Any,
    callbacks: Sequence[Any] = (),
) -> None:
    """Runs a job on all workers of a placement and waits for its end.

    Args:
        job: For example `distill_shards`.
        work: Object reference to the workspace.
        placement: Workers and what each of them holds.
        name: Of the run, below `storage_path`.
        storage_path: Where Ray Train keeps its own state.
        max_failures: How often a dead worker is replaced.
        board: Where the workers post their progress, and what a person should know.
        callbacks: Ray Train's.

    Raises:
        DimError: The error that a worker ended with, or workers died too often.
        ray.train.TrainingFailedError: A worker ended with a defect.
    """
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"job": job, "work": work, "board": board, "name": name},
        scaling_config=ray.train.ScalingConfig(
            num_workers=placement.num_workers,
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
                raise worker_died(job.__name__.replace("_", " "), failure) from error
        raise


def teacher_shards(work: Workspace, reporter: Reporter, collective: Collective) -> None:
    """Trains this worker's share of the teachers that are missing."""
    missing = missing_teachers(work)
    mine = [number for number in shard(pool_teachers(work.config), collective) if number in missing]
    for done, number in enumerate(mine):
        build_teacher(work, number, SilentReporter())
        reporter.report(done + 1, len(mine), {})


def prior_shards(work: Workspace, reporter: Reporter, collective: Collective) -> None:
    """Trains the prior, all workers together."""
    build_prior(work, reporter, collective)


def distill_shards(work: Workspace, reporter: Reporter, collective: Collective) -> None:
    """Distils, each worker against its shard of the pool."""
    distill_generator(work, reporter, collective)


def trial_shards(work: Workspace, reporter: Reporter, collective: Collective) -> None:
    """Distils as `distill_shards`, and reports at all rungs but the last through Ray Train.

    The end is the trial's own to report: a scheduler stops it there, and would cut off workers that still hold their
    resources.
    """
    distill_shards(work, TrainReporter(rung_epochs(work.config)[:-1], reporter), collective)


def _worker(settings: dict[str, Any]) -> None:
    placed = ray.get_runtime_context().get_assigned_resources()
    work = on_device(ray.get(settings["work"]), int(placed.get("CPU", 1)))
    collective = TorchCollective(work.dataset.train.images.device)
    reporter = BoardReporter(settings["board"], f"{settings['name']} {collective.rank}")
    with told_to(settings["board"]):
        settings["job"](work, reporter, collective)
