"""Studies from beginning to end: teachers and priors, trials, contenders, and the evaluation of the best generator.

    [outcome] = run_studies([work], progress)
    outcome.best, outcome.evaluations

Everything that is finished is found on the storage and not done again, so the same call goes on after an
interruption, extends a study that was given more trials, and costs nothing where all is there.
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
from dim_ray.distributed.bridge import watching
from dim_ray.distributed.build import ADVERSARIAL_COST, STAGE_BUILD, build_networks
from dim_ray.distributed.cluster.joining import cluster
from dim_ray.distributed.cluster.placement import DRIVER_SHARE, Placement
from dim_ray.distributed.measure import STAGE_CONTEND, STAGE_EVALUATE, run_evaluations, run_validations
from dim_ray.distributed.preflight.check import check_nodes
from dim_ray.distributed.trainer import ray_path
from dim_ray.errors import DimError, DivergedError
from dim_ray.pipeline.evaluations import plan_evaluations
from dim_ray.pipeline.rows import read_planned
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress import PrefixedProgress, Progress
from dim_ray.store.schema import EVALUATION_TABLE
from tuning.contenders import Verdict, contender_students, decide
from tuning.cost import StudyCost, network_keys
from tuning.record import StudyRecord
from tuning.search.time_budget import TimeBudget
from tuning.search.variants import SizeLimit, network_variants

__all__ = ["StudyOutcome", "run_studies"]

_STAGE_TRIALS = "trials"


@dataclass(frozen=True, kw_only=True)
class StudyOutcome:
    """What a study has come to."""

    best: Mapping[str, Any] | None
    """Row of the best trial; None where the time budget left none completed."""
    verdict: Verdict | None
    """How it won; None without contenders, and while their students aren't all there."""
    trials: pd.DataFrame
    """Rows of all trials."""
    evaluations: pd.DataFrame | None
    """Rows of the best generator and of the baselines at the same budgets; None where trials are left to run."""
    cost: StudyCost
    """Of all its runs, evaluations left out."""
    num_trials_run: int
    """In this call."""
    num_evaluations_run: int
    """In this call, those of contenders included."""
    diverged: DivergedError | None = None
    """Names students of the evaluation that have no row."""


def run_studies(
    works: Sequence[Workspace], progress: Progress, *, on_begin: Callable[[Workspace], None] = lambda work: None
) -> list[StudyOutcome | DimError]:
    """Does what is missing of studies, one after the other on one cluster; no other process can run them meanwhile.

    Args:
        works: Configuration, data and name of each; they differ in their data. Data on the CPU.
        progress: Entered; is told about stages.
        on_begin: Is called with each when its turn comes.

    Returns:
        What each has come to. Where the time budget, which they share, is over: what it has so far. One that failed
        leaves its error, unless it's the only one.

    Raises:
        ResourceError: Another process runs one of them.
        DimError: The only one failed: no trial can be placed, none completed, or a stage failed.
    """
    records = [StudyRecord(work) for work in works]
    outcomes: list[StudyOutcome | DimError] = []
    with ExitStack() as stack:
        for record in records:
            stack.enter_context(record.held())
            record.open()
        budget = TimeBudget(works[0].config)
        names = [f"{work.dataset.name}: " if len(works) > 1 else "" for work in works]
        pairs = list(zip(works, records, strict=True))
        plans = [_costs(*pair) for pair in pairs]
        if any(plans):
            stages = zip(names, plans, strict=True)
            progress.plan({f"{name}{stage}": cost for name, plan in stages for stage, cost in plan.items()})
        placement = cache(lambda: stack.enter_context(cluster(works[0].config, progress)))
        for (work, record), name in zip(pairs, names, strict=True):
            on_begin(work)
            part = PrefixedProgress(progress, name)
            try:
                outcomes.append(_run(work, record, budget, placement, part))
            except DimError as error:
                if len(works) == 1:
                    raise
                part.message(str(error))
                outcomes.append(error)
    return outcomes


def _run(
    work: Workspace,
    record: StudyRecord,
    budget: TimeBudget,
    join: Callable[[], Placement],
    progress: Progress,
) -> StudyOutcome:
    num_missing = max(0, work.config.study.num_trials - len(record.finished()))
    if num_missing == 0 and not any(record.missing_students()):
        return _outcome(work, record, 0, 0)

    if num_missing > 0 and budget.is_over():  # other studies took it
        return _unfinished(work, record, 0)

    from tuning.loggers import begin_loggers

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
        if not _search(work, record, placement, num_missing, budget, limit, loggers, progress):
            return _unfinished(work, record, num_missing)
    num_run = run_validations(work, contender_students(work, record.trials()), placement, progress)
    best = record.best()
    diverged = None
    try:
        num_run += run_evaluations(work, plan_evaluations(work, str(best["generator"])), placement, progress)
    except DivergedError as error:  # the other students have their rows
        diverged = error
    record.forget_checkpoints()
    return replace(_outcome(work, record, num_missing, num_run), diverged=diverged)


def _missing_networks(work: Workspace, variants: Sequence[Config]) -> list[str]:
    """Returns the teachers and priors of the study that the storage doesn't hold."""
    keys = dict.fromkeys(key for config in variants for key in network_keys(replace(work, config=config)))
    return [key for key in keys if not work.artifacts.exists(*key.split("/"))]


def _search(
    work: Workspace,
    record: StudyRecord,
    placement: Placement,
    num_trials: int,
    budget: TimeBudget,
    limit: SizeLimit,
    loggers: Mapping[str, Any],
    progress: Progress,
) -> bool:
    """Runs the trials that are missing, and returns whether they all came to an end before the time was over."""
    from ray.tune import TuneError

    from tuning.display import TrialDisplay
    from tuning.loggers import make_callbacks
    from tuning.search.journal import open_journal
    from tuning.search.optuna_search import StudySearch, settle
    from tuning.warm_start import warm_start

    finished = record.finished()
    journal = open_journal(work.artifacts, record.key("optuna.journal"))
    settle(journal, work.study, work.config, finished=finished, failed=record.failed())
    start = warm_start(journal, work.study, work.config, is_new=not finished, limit=limit)
    if start is not None:
        progress.message(
            f"warm start: {start.num_queued} configurations of earlier trials are tried first, and "
            f"{start.num_known} of their results are known to the sampler"
        )

    search = StudySearch(
        work.config,
        journal,
        work.study,
        record=record,
        num_trials=num_trials,
        time_budget=budget,
        limit=limit,
        on_reused=lambda number, result: display.on_trial_reused(number, result),
    )
    progress.start(_STAGE_TRIALS, work.config.study.num_trials, "trials")
    display = TrialDisplay(work.config, record, search, budget, progress)
    callbacks = [display, *make_callbacks(work, loggers, search.lookup, progress)]
    with watching() as board:  # Tune tells the display how far the trials are
        tuner = _make_tuner(work, placement, search, num_trials, budget, board, callbacks)
        try:
            tuner.fit()
        except TuneError as error:
            if own := _own_error(error):
                raise own from None
            raise
    num_lost = work.config.study.num_trials - search.num_ended
    if num_lost > 0 and not budget.is_over():
        raise DimError(
            f"the search ended {num_lost} trials early; the log says why. What has finished is kept: run the same "
            "command again to go on."
        )
    return num_lost <= 0


def _own_error(error: BaseException | None) -> DimError | None:
    """Returns the error with a sentence for a person that another one came from."""
    while error is not None and not isinstance(error, DimError):
        error = error.__cause__ or error.__context__
    return error


def _make_tuner(
    work: Workspace,
    placement: Placement,
    search: Any,
    num_trials: int,
    budget: TimeBudget,
    board: Any,
    callbacks: Sequence[Any],
) -> Any:
    from ray import tune

    from tuning.search.schedulers import make_scheduler
    from tuning.trial import run_trial

    if placement.num_workers == 1:
        held = {"CPU": placement.cpus_per_worker, "GPU": placement.gpus_per_worker}
    else:
        held = DRIVER_SHARE  # it only waits: its workers ask for their own resources
    trainable = tune.with_parameters(run_trial, work=work, placement=placement, board=board)
    return tune.Tuner(
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
            callbacks=callbacks,
            failure_config=tune.FailureConfig(max_failures=work.config.study.max_failures),
        ),
    )


def _unfinished(work: Workspace, record: StudyRecord, num_trials: int) -> StudyOutcome:
    """Returns what there is when the time is over: nothing is evaluated, since the best trial may be to come."""
    trials = record.trials()
    has_best = bool((trials["state"] == "completed").any())
    return StudyOutcome(
        best=record.best() if has_best else None,
        verdict=decide(work, trials),
        trials=trials,
        evaluations=None,
        cost=record.cost(),
        num_trials_run=num_trials,
        num_evaluations_run=0,
    )


def _outcome(work: Workspace, record: StudyRecord, num_trials_run: int, num_evaluations_run: int) -> StudyOutcome:
    best, trials = record.best(), record.trials()
    return StudyOutcome(
        best=best,
        verdict=decide(work, trials),
        trials=trials,
        evaluations=read_planned(work, EVALUATION_TABLE, plan_evaluations(work, str(best["generator"]))),
        cost=record.cost(),
        num_trials_run=num_trials_run,
        num_evaluations_run=num_evaluations_run,
    )


def _costs(work: Workspace, record: StudyRecord) -> dict[str, float]:
    """Estimates the costs of the stages to come, in images through a student; none where all is done."""
    config, num_images = work.config, len(work.dataset.train)
    num_trials = max(0, config.study.num_trials - len(record.finished()))
    try:
        if num_trials == 0 and not any(record.missing_students()):
            return {}
    except DimError:  # is told when its turn comes
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
        _STAGE_TRIALS: num_trials * config.matching.epochs * num_images * ADVERSARIAL_COST,
        STAGE_CONTEND: float(contending * evaluation.epochs),
        STAGE_EVALUATE: float(students * per_epoch * evaluation.epochs),
    }
