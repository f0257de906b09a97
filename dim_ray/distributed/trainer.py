"""One stage on several workers, through Ray Train.

    with watching({PRIOR: 1.0}, on_progress) as board:
        run_workers(prior_shards, work, placement, what="prior", board=board)

Each teacher is trained by one worker. In a distillation, worker r of W holds every W-th teacher, and gradients are
averaged by `TorchCollective` over the process group that Ray Train sets up. State lies in the storage, so a worker that
died is started again and continues from the last checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError  # raised for a worker that died

from dim_ray.core.training.collective import TorchCollective
from dim_ray.core.training.ports import Collective, Reporter
from dim_ray.distributed.board import is_given_up
from dim_ray.distributed.bridge import BoardReporter, RungReporter, told_to
from dim_ray.distributed.cluster.held import on_held_device
from dim_ray.distributed.cluster.placement import Placement
from dim_ray.distributed.tasks import worker_died
from dim_ray.errors import DimError
from dim_ray.pipeline.generators import distill_generator
from dim_ray.pipeline.priors import build_prior
from dim_ray.pipeline.teachers import build_teachers
from dim_ray.pipeline.validation import at_rungs
from dim_ray.pipeline.workspace import Workspace
from dim_ray.store.files.filesystem import open_root

__all__ = [
    "DISTILLATION",
    "PRIOR",
    "ReportTo",
    "WorkerJob",
    "distill_shards",
    "prior_shards",
    "ray_path",
    "run_workers",
    "teacher_shards",
    "trial_shards",
]

# For the others, while worker 0 validates or stores a generator. Ray notices a worker that died by itself.
_GROUP_SECONDS = 4 * 60 * 60
_DEATHS = (WorkerHealthCheckFailedError, ray.exceptions.RayActorError)

PRIOR, DISTILLATION = "prior", "distillation"
"""Names under which workers that train together report."""

ReportTo = Callable[[str], Reporter]
"""Makes the reporter of a job."""

WorkerJob = Callable[[Workspace, ReportTo, Collective], None]
"""An importable function that every worker runs."""


def ray_path(work: Workspace) -> str:
    """Return the URI under which Ray keeps its own state of a study."""
    return open_root(work.config.storage.root).uri_of(f"studies/{work.study}/ray")


def run_workers(
    job: WorkerJob,
    work: Workspace,
    placement: Placement,
    *,
    what: str,
    board: Any,
    callbacks: Sequence[Any] = (),
    is_elastic: bool = False,
) -> None:
    """Run a job on all workers of a placement, and wait for its end. If a node was lost, begin it again.

    Args:
        job: For example `distill_shards`.
        work: Data, configuration and storage.
        placement: Number of workers, and what each of them holds.
        what: Name of the run, for errors.
        board: Board for progress and notices.
        callbacks: Ray Train's callbacks.
        is_elastic: Whether fewer workers may finish the job if a node is lost and no other has room.

    Raises:
        DimError: A worker failed with this error, or workers died too often by themselves.
        ray.train.TrainingFailedError: A worker has a defect.
    """
    shared = ray.put(work)
    while True:
        run = f"{what.replace(' ', '-')}-{time.time_ns()}"
        trainer = TorchTrainer(
            _worker,
            torch_config=TorchConfig(timeout_s=_GROUP_SECONDS),
            train_loop_config={"job": job, "work": shared, "board": board, "run": run},
            scaling_config=ray.train.ScalingConfig(
                num_workers=(1, placement.num_workers) if is_elastic else placement.num_workers,
                use_gpu=placement.gpus_per_worker > 0,
                resources_per_worker={"CPU": placement.cpus_per_worker, "GPU": placement.gpus_per_worker},
            ),
            run_config=ray.train.RunConfig(
                name=run,
                storage_path=ray_path(work),
                failure_config=ray.train.FailureConfig(max_failures=work.config.study.max_failures),
                callbacks=list(callbacks),
            ),
        )
        try:
            trainer.fit()
            return
        except ray.train.TrainingFailedError as error:
            failures = list(getattr(error, "worker_failures", {}).values())
            if own := next((failure for failure in failures if isinstance(failure, DimError)), None):
                raise own from error
            # The other workers fail because they lost this one.
            death = next((failure for failure in failures if isinstance(failure, _DEATHS)), None)
            if death is None:
                raise
            nodes = ray.get(board.nodes.remote(run))
            if is_given_up(nodes, len(nodes), len(nodes) - 1):  # none of them was lost
                raise worker_died(what, death) from error


def teacher_shards(
    groups: Mapping[str, Sequence[int]], work: Workspace, report_to: ReportTo, collective: Collective
) -> None:
    """Train this worker's share of groups of teachers, which are given by name, the most expensive first."""
    for name in list(groups)[collective.rank :: collective.num_workers]:
        reporter = report_to(name)
        build_teachers(work, groups[name], reporter)
        reporter.report(1, 1, {})  # also for teachers that the storage held


def prior_shards(work: Workspace, report_to: ReportTo, collective: Collective) -> None:
    """Train the prior on all workers together."""
    build_prior(work, report_to(PRIOR), collective)


def distill_shards(work: Workspace, report_to: ReportTo, collective: Collective) -> None:
    """Distil the generator, each worker against its shard of the pool."""
    distill_generator(work, report_to(DISTILLATION), collective)


def trial_shards(name: str, work: Workspace, report_to: ReportTo, collective: Collective) -> None:
    """Distil as `distill_shards` does for a trial of this name; report validations at the rungs through Ray Train."""
    reporter = RungReporter(report_to(name), ray.train.report, with_last=False)
    distill_generator(work, reporter, collective, at_rungs(work))


def _worker(settings: dict[str, Any]) -> None:
    work = on_held_device(ray.get(settings["work"]), get_device())
    collective = TorchCollective(work.dataset.train.images.device)
    settings["board"].begin.remote(settings["run"], ray.get_runtime_context().get_node_id())
    with told_to(settings["board"]):
        settings["job"](work, lambda job: BoardReporter(settings["board"], job), collective)
