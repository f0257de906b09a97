"""A study from beginning to end: teachers and priors, trials, and the evaluation of the best generator.

    outcome = run_study(work, progress)
    outcome.best, outcome.evaluations

Everything that is finished is found on the storage and not done again, so the same call goes on after an
interruption, extends a study that was given more trials, and costs nothing where all is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import optuna
import pandas as pd

from dim_ray.distributed.board import make_board
from dim_ray.distributed.build import STAGE_EVALUATE, run_evaluations
from dim_ray.distributed.networks import ADVERSARIAL_COST, STAGE_BUILD, build_networks
from dim_ray.distributed.preflight import check_nodes
from dim_ray.distributed.resources import DRIVER_SHARE, Placement, cluster
from dim_ray.distributed.watched import ray_path, watching
from dim_ray.errors import DimError
from dim_ray.pipeline.evaluations import missing_evaluations, plan_evaluations, read_evaluations
from dim_ray.pipeline.teachers import pool_teachers
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress import Progress
from tuning.record import StudyRecord

__all__ = ["StudyOutcome", "run_study"]

_STAGE_TRIALS = "trials"


@dataclass(frozen=True, kw_only=True)
class StudyOutcome:
    """What a study has come to."""

    best: Mapping[str, Any]
    """Row of the best trial."""
    trials: pd.DataFrame
    """Rows of all trials."""
    evaluations: pd.DataFrame
    """Rows of the best generator and of the baselines at the same budgets."""
    num_trials_run: int
    """In this call."""
    num_evaluations_run: int
    """In this call."""


def run_study(work: Workspace, progress: Progress) -> StudyOutcome:
    """Does what is missing of a study; no other process can run it meanwhile.

    Args:
        work: Configuration, data and name of the study. Data on the CPU.
        progress: Entered; is told about stages.

    Raises:
        ResourceError: A trial can never be placed, or another process runs the study.
        DimError: No trial completed, or a stage failed.
    """
    record = StudyRecord(work)
    with record.held():
        return _run(work, record, progress)


def _run(work: Workspace, record: StudyRecord, progress: Progress) -> StudyOutcome:
    record.open()
    finished = record.finished()
    config = work.config.study
    num_missing = config.num_trials - len(finished)
    if num_missing <= 0:
        cells = missing_evaluations(work, plan_evaluations(work, str(record.best()["generator"])))
        if not cells:
            return _outcome(work, record, 0, 0)
    progress.plan(_costs(work, max(0, num_missing)))

    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()  # to the log file
    with cluster(work.config, progress) as placement:
        check_nodes(_largest(work), placement, progress, num_trials=max(1, num_missing))
        if num_missing > 0:
            build_networks(work, max(config.pool_sizes), config.capacities, placement, progress)
            _search(work, record, placement, num_missing, progress)
        best = record.best()
        num_evaluated = run_evaluations(work, plan_evaluations(work, str(best["generator"])), placement, progress)
        record.forget_checkpoints()
    return _outcome(work, record, max(0, num_missing), num_evaluated)


def _largest(work: Workspace) -> Workspace:
    """Returns the workspace of the largest trial."""
    config = work.config
    pool = replace(config.pool, size=max(config.study.pool_sizes))
    generator = replace(config.generator, capacity=max(config.study.capacities))
    return replace(work, config=replace(config, pool=pool, generator=generator))


def _search(work: Workspace, record: StudyRecord, placement: Placement, num_trials: int, progress: Progress) -> None:
    """Runs the trials that are missing."""
    from ray import tune

    from tuning.algorithms import StudySearch, make_scheduler, open_journal, settle
    from tuning.display import TrialDisplay
    from tuning.trial import run_trial

    finished = record.finished()
    journal = open_journal(work.artifacts, record.key("optuna.journal"))
    settle(journal, work.study, work.config, finished=finished, failed=record.failed())
    search = StudySearch(work.config, journal, work.study, taken=finished, on_end=record.write_trial)
    progress.start(_STAGE_TRIALS, work.config.study.num_trials, "trials")
    display = TrialDisplay(work.config, record, search, progress)
    if placement.num_workers == 1:
        held = {"CPU": placement.cpus_per_worker, "GPU": placement.gpus_per_worker}
    else:
        held = DRIVER_SHARE  # it only waits: its workers ask for their own resources
    board = make_board()
    trainable = tune.with_parameters(run_trial, work=work, placement=placement, train_path=ray_path(work), board=board)
    tuner = tune.Tuner(
        tune.with_resources(trainable, held),
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=make_scheduler(work.config),
            num_samples=num_trials,
            max_concurrent_trials=placement.max_concurrent,
            # A trial of several workers still waits for them when it's stopped, so its process can't be used again.
            reuse_actors=placement.num_workers == 1,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=ray_path(work),
            verbose=0,
            callbacks=[display],
            failure_config=tune.FailureConfig(max_failures=work.config.study.max_failures),
        ),
    )
    with watching(board, {}, lambda share, note: None):  # Tune tells the display how far the trials are
        tuner.fit()
    num_lost = work.config.study.num_trials - len(record.finished()) - len(record.failed())
    if num_lost > 0:
        raise DimError(
            f"the search ended {num_lost} trials early; the log says why. What has finished is kept: run the same "
            "command again to go on."
        )


def _outcome(work: Workspace, record: StudyRecord, num_trials_run: int, num_evaluations_run: int) -> StudyOutcome:
    best = record.best()
    return StudyOutcome(
        best=best,
        trials=record.trials(),
        evaluations=read_evaluations(work, plan_evaluations(work, str(best["generator"]))),
        num_trials_run=num_trials_run,
        num_evaluations_run=num_evaluations_run,
    )


def _costs(work: Workspace, num_trials: int) -> dict[str, float]:
    """Estimates the stages' costs in images through a student, for the time left."""
    config, num_images = work.config, len(work.dataset.train)
    evaluation = config.evaluation
    per_epoch = work.dataset.num_classes * sum(evaluation.images_per_class)
    students = len(evaluation.protocols) * len(config.networks.students) * evaluation.num_seeds
    num_teachers = max(config.study.pool_sizes) if pool_teachers(config) else 0
    prepare = num_teachers * config.pool.epochs + len(config.study.capacities) * config.prior.epochs * ADVERSARIAL_COST
    return {
        STAGE_BUILD: prepare * num_images if num_trials else 0.0,
        _STAGE_TRIALS: num_trials * config.matching.epochs * num_images * ADVERSARIAL_COST,
        STAGE_EVALUATE: float(students * per_epoch * evaluation.epochs),
    }
