"""Studies from beginning to end: teachers and priors, trials, contenders, and the evaluation of the best generator.

    [outcome] = run_studies([work], progress)
    outcome.best, outcome.evaluations

What is finished is in the storage and isn't done again. So the same call continues after an interruption, extends a
study that was given more trials, and costs nothing if nothing is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import optuna
import pandas as pd

from dim_ray.config import Config
from dim_ray.distributed.build import ADVERSARIAL_COST, STAGE_BUILD, build_networks, distill_one
from dim_ray.distributed.cluster.joining import cluster
from dim_ray.distributed.cluster.placement import Placement
from dim_ray.distributed.measure import (
    STAGE_CONTEND,
    STAGE_EVALUATE,
    control_task,
    run_evaluations,
    run_validations,
)
from dim_ray.distributed.preflight.check import check_nodes
from dim_ray.distributed.tasks import Task
from dim_ray.errors import DimError, DivergedError
from dim_ray.pipeline.controls import note_divergence
from dim_ray.pipeline.evaluations import plan_evaluations
from dim_ray.pipeline.generators import generator_fingerprint
from dim_ray.pipeline.rows import read_planned
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress import PrefixedProgress, Progress
from dim_ray.store.schema import EVALUATION_TABLE
from dim_ray.store.upkeep.compaction import compact
from tuning.contenders import Verdict, compare, contender_students, controlled, decide
from tuning.control import Comparison
from tuning.cost import StudyCost, network_keys
from tuning.loggers import begin_loggers
from tuning.record import StudyRecord
from tuning.search.journal import study_journal
from tuning.search.time_budget import TimeBudget
from tuning.search.variants import SizeLimit, network_variants
from tuning.tuner import STAGE_TRIALS, run_trials

__all__ = ["StudyOutcome", "run_studies"]

_MOST_FILES = 1000
"""Small files of rows of one IPC, or one study, from which they are merged: a second to read on a disk, a minute on an
object store."""


@dataclass(frozen=True, kw_only=True)
class StudyOutcome:
    """Outcome of a study."""

    best: Mapping[str, Any] | None
    """Row of the best trial; None if no trial completed within the time budget."""
    verdict: Verdict | None
    """How it won; None without contenders, or while some of their students are missing."""
    comparison: Comparison | None
    """What matching brought it; None without a control, or if that diverged."""
    trials: pd.DataFrame
    """Rows of all trials."""
    evaluations: pd.DataFrame | None
    """Rows of the best generator and of the baselines at the same budgets; None if trials are missing."""
    cost: StudyCost
    """Cost of all runs of the study, without evaluations."""
    num_trials_run: int
    """Trials of this call."""
    num_evaluations_run: int
    """Students of this call, those of contenders and control included."""
    diverged: DivergedError | None = None
    """Error that names the students of the evaluation without a row."""


def run_studies(
    works: Sequence[Workspace], progress: Progress, *, on_begin: Callable[[Workspace], None] = lambda work: None
) -> list[StudyOutcome | DimError]:
    """Complete each study in turn on one cluster, holding its lock; `on_begin` is called when its turn comes.

    Returns:
        Outcome of each study, or the error of one that failed among others. If the time budget, which they share, is
        over, the outcome so far.

    Raises:
        ResourceError: Another process runs one of the studies.
        DimError: The only study failed: no trial can be placed, none completed, or a stage failed.
    """
    outcomes: list[StudyOutcome | DimError] = []
    with ExitStack() as stack:
        studies = [(work, StudyRecord(work), f"{work.dataset.name}: " if len(works) > 1 else "") for work in works]
        for _, record, _ in studies:
            stack.enter_context(record.held())
            record.open()
        compact(works[0].config.storage.root, most_files=_MOST_FILES)  # says so
        time_budget = TimeBudget(works[0].config)
        costs = {name + stage: cost for work, record, name in studies for stage, cost in _costs(work, record).items()}
        if costs:
            progress.plan(costs)
        join = cache(lambda: stack.enter_context(cluster(works[0].config, progress)))
        for work, record, name in studies:
            on_begin(work)
            part = PrefixedProgress(progress, name)
            try:
                outcomes.append(_run(work, record, time_budget, join, part))
            except DimError as error:
                if len(works) == 1:
                    raise
                part.message(str(error))
                outcomes.append(error)
    return outcomes


def _run(
    work: Workspace, record: StudyRecord, time_budget: TimeBudget, join: Callable[[], Placement], progress: Progress
) -> StudyOutcome:
    num_missing = max(0, work.config.study.num_trials - len(record.finished()))
    if num_missing == 0 and not any(record.missing_students()):
        return _outcome(work, record)
    if num_missing > 0 and time_budget.is_over():  # other studies took it
        return _outcome(work, record, is_over=False)

    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()  # to the log file
    limit = SizeLimit(work.config, work.dataset)
    variants = network_variants(work.config, limit)
    loggers = begin_loggers(work) if num_missing > 0 else {}
    placement = join()
    check_nodes(work, placement, progress, num_trials=max(1, num_missing), variants=variants)
    if num_missing > 0:
        if left_out := limit.describe():
            progress.message(left_out)
        record.note_missing(_missing_networks(work, variants))
        build_networks(work, variants, placement, progress)
        with study_journal(work.artifacts, record.key("optuna.journal")) as journal:
            is_over = run_trials(work, record, journal, time_budget, placement, progress, loggers)
        if not is_over:
            return _outcome(work, record, num_trials_run=num_missing, is_over=False)
    num_run = run_validations(work, contender_students(work, record.trials()), placement, progress)
    best = record.best()
    diverged = None
    try:
        planned = plan_evaluations(work, str(best["generator"]))
        beside = _control(work, record, best, placement, progress)
        num_run += len(beside) + run_evaluations(work, planned, placement, progress, beside)
    except DivergedError as error:  # the other students have their rows
        diverged = error
    record.forget_checkpoints()
    outcome = _outcome(work, record, num_trials_run=num_missing, num_evaluations_run=num_run)
    return replace(outcome, diverged=diverged)


def _control(
    work: Workspace, record: StudyRecord, best: Mapping[str, Any], placement: Placement, progress: Progress
) -> Mapping[str, Task]:
    """Return the task that measures the best trial's control; several workers distil it first."""
    config = controlled(work, best)
    task = control_task(work, str(best["generator"]), config) if config else {}
    if config is None or not task:
        return {}
    own = replace(work, config=config)
    build_networks(work, [config], placement, progress)  # somebody may have deleted the prior
    if not work.artifacts.exists(*(key := ("generators", generator_fingerprint(own)))):
        record.note_missing(["/".join(key)])
        if placement.num_workers > 1:
            try:
                distill_one(own, placement, progress)
            except DivergedError as error:
                note_divergence(own, error)
                return {}
    return task


def _missing_networks(work: Workspace, variants: Sequence[Config]) -> list[str]:
    """Return the keys of the study's teachers and priors that the storage lacks."""
    keys = dict.fromkeys(key for config in variants for key in network_keys(replace(work, config=config)))
    return [key for key in keys if not work.artifacts.exists(*key.split("/"))]


def _outcome(
    work: Workspace,
    record: StudyRecord,
    *,
    num_trials_run: int = 0,
    num_evaluations_run: int = 0,
    is_over: bool = True,
) -> StudyOutcome:
    """Return the outcome so far; while trials are missing, without evaluations: the best trial may be among them."""
    trials = record.trials()
    best = record.best() if is_over or (trials["state"] == "completed").any() else None
    evaluations = None
    if is_over and best:
        evaluations = read_planned(work, EVALUATION_TABLE, plan_evaluations(work, str(best["generator"])))
    return StudyOutcome(
        best=best,
        verdict=decide(work, trials),
        comparison=compare(work, best) if is_over and best else None,
        trials=trials,
        evaluations=evaluations,
        cost=record.cost(),
        num_trials_run=num_trials_run,
        num_evaluations_run=num_evaluations_run,
    )


def _costs(work: Workspace, record: StudyRecord) -> dict[str, float]:
    """Return the estimated costs of the stages to come, in images through a student; none if all is done."""
    config, num_images = work.config, len(work.dataset.train)
    num_trials = max(0, config.study.num_trials - len(record.finished()))
    try:
        if num_trials == 0 and not any(record.missing_students()):
            return {}
    except DimError:  # raised again when its turn comes
        return {}
    evaluation = config.evaluation
    per_epoch = work.dataset.num_classes * sum(evaluation.images_per_class)
    contending = (
        config.study.num_contender_students * work.dataset.num_classes * sum(config.study.selection_images_per_class)
    )
    students = len(evaluation.protocols) * len(config.networks.students) * evaluation.num_seeds
    variants = network_variants(config, SizeLimit(config, work.dataset))
    networks = {
        key: own.pool.epochs if key.startswith("teachers/") else own.prior.epochs * ADVERSARIAL_COST
        for own in variants
        for key in network_keys(replace(work, config=own))
    }
    return {
        STAGE_BUILD: sum(networks.values()) * num_images if num_trials else 0.0,
        STAGE_TRIALS: num_trials * config.matching.epochs * num_images * ADVERSARIAL_COST,
        STAGE_CONTEND: float(contending * evaluation.epochs),
        STAGE_EVALUATE: float(students * per_epoch * evaluation.epochs),
    }
