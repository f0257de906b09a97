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
from tuning.budget import TimeBudget
from tuning.cost import StudyCost, network_keys
from tuning.record import StudyRecord

__all__ = ["StudyOutcome", "largest_trial", "run_study"]

_STAGE_TRIALS = "trials"


@dataclass(frozen=True, kw_only=True)
class StudyOutcome:
    """What a study has come to."""

    best: Mapping[str, Any] | None
    """Row of the best trial; None where the time budget left none completed."""
    trials: pd.DataFrame
    """Rows of all trials."""
    evaluations: pd.DataFrame | None
    """Rows of the best generator and of the baselines at the same budgets; None where trials are left to run."""
    cost: StudyCost
    """Of all its runs, evaluations left out."""
    num_trials_run: int
    """In this call."""
    num_evaluations_run: int
    """In this call."""


def run_study(work: Workspace, progress: Progress) -> StudyOutcome:
    """Does what is missing of a study; no other process can run it meanwhile.

    Args:
        work: Configuration, data and name of the study. Data on the CPU.
        progress: Entered; is told about stages.

    Returns:
        What the study has come to; where its time budget is over, what it has so far.

    Raises:
        ResourceError: A trial can never be placed, or another process runs the study.
        DimError: No trial completed, or a stage failed.
    """
    record = StudyRecord(work)
    with record.held():
        return _run(work, record, progress)


def largest_trial(work: Workspace) -> Workspace:
    """Returns the workspace of the largest trial."""
    config = work.config
    pool = replace(config.pool, size=max(config.study.pool_sizes))
    generator = replace(config.generator, capacity=max(config.study.capacities))
    return replace(work, config=replace(config, pool=pool, generator=generator))


def _run(work: Workspace, record: StudyRecord, progress: Progress) -> StudyOutcome:
    record.open()
    budget = TimeBudget(work.config)
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
        check_nodes(largest_trial(work), placement, progress, num_trials=max(1, num_missing))
        if num_missing > 0:
            record.note_missing(_missing_networks(work))
            build_networks(work, max(config.pool_sizes), config.capacities, placement, progress)
            if not _search(work, record, placement, num_missing, budget, progress):
                return _unfinished(record, num_missing)
        best = record.best()
        num_evaluated = run_evaluations(work, plan_evaluations(work, str(best["generator"])), placement, progress)
        record.forget_checkpoints()
    return _outcome(work, record, max(0, num_missing), num_evaluated)


def _missing_networks(work: Workspace) -> list[str]:
    """Returns the teachers and priors of the study that the storage doesn't hold."""
    config, largest = work.config, largest_trial(work)
    generators = [replace(config.generator, capacity=capacity) for capacity in config.study.capacities]
    works = [replace(largest, config=replace(largest.config, generator=generator)) for generator in generators]
    keys = dict.fromkeys(key for own in works for key in network_keys(own))
    return [key for key in keys if not work.artifacts.exists(*key.split("/"))]


def _search(
    work: Workspace, record: StudyRecord, placement: Placement, num_trials: int, budget: TimeBudget, progress: Progress
) -> bool:
    """Runs the trials that are missing, and returns whether they all came to an end before the time was over."""
    from ray import tune

    from tuning.algorithms import REUSED_TRIAL, StudySearch, open_journal, settle
    from tuning.display import TrialDisplay
    from tuning.loggers import make_loggers
    from tuning.schedulers import make_scheduler
    from tuning.trial import run_trial
    from tuning.warm_start import warm_start

    finished = record.finished()
    journal = open_journal(work.artifacts, record.key("optuna.journal"))
    settle(journal, work.study, work.config, finished=finished, failed=record.failed())
    start = warm_start(journal, work.study, work.config, is_new=not finished)
    if start is not None:
        progress.message(
            f"warm start: {start.num_queued} configurations of earlier trials are tried first, and "
            f"{start.num_known} of their results are known to the sampler"
        )

    def end(number: int, parameters: Mapping[str, Any], result: Mapping[str, Any] | None) -> None:
        record.write_trial(number, parameters, result)
        if result and REUSED_TRIAL in result:
            display.on_trial_reused(number, result)

    search = StudySearch(
        work.config,
        journal,
        work.study,
        taken=finished,
        num_trials=num_trials,
        identify=record.identify,
        results=record.results(),
        measure=record.measured,
        budget=budget,
        on_end=end,
    )
    progress.start(_STAGE_TRIALS, work.config.study.num_trials, "trials")
    display = TrialDisplay(work.config, record, search, budget, progress)
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
            stop=budget,
            callbacks=[display, *make_loggers(work, search.identify, progress)],
            failure_config=tune.FailureConfig(max_failures=work.config.study.max_failures),
        ),
    )
    with watching(board, {}, lambda share, note: None):  # Tune tells the display how far the trials are
        tuner.fit()
    num_lost = work.config.study.num_trials - len(record.finished()) - len(record.failed())
    if num_lost > 0 and not budget.is_over():
        raise DimError(
            f"the search ended {num_lost} trials early; the log says why. What has finished is kept: run the same "
            "command again to go on."
        )
    return num_lost <= 0


def _unfinished(record: StudyRecord, num_trials: int) -> StudyOutcome:
    """Returns what there is when the time is over: nothing is evaluated, since the best trial may be to come."""
    trials = record.trials()
    has_best = bool((trials["state"] == "completed").any())
    return StudyOutcome(
        best=record.best() if has_best else None,
        trials=trials,
        evaluations=None,
        cost=record.cost(),
        num_trials_run=num_trials,
        num_evaluations_run=0,
    )


def _outcome(work: Workspace, record: StudyRecord, num_trials_run: int, num_evaluations_run: int) -> StudyOutcome:
    best = record.best()
    return StudyOutcome(
        best=best,
        trials=record.trials(),
        evaluations=read_evaluations(work, plan_evaluations(work, str(best["generator"]))),
        cost=record.cost(),
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
