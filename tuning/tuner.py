"""A study's trials, by Ray Tune.

if run_trials(work, record, journal, time_budget, placement, progress, loggers):
    record.best()
"""

from __future__ import annotations

from collections.abc import Mapping
from tempfile import TemporaryDirectory
from typing import Any

import ray
from optuna.storages import BaseStorage
from ray import tune

from dim_ray.distributed.board import num_lost
from dim_ray.distributed.bridge import watching
from dim_ray.distributed.cluster.placement import DRIVER_SHARE, Placement
from dim_ray.errors import DimError
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress import Progress
from tuning.display import TrialDisplay
from tuning.loggers import make_callbacks
from tuning.record import StudyRecord
from tuning.search.optuna_search import StudySearch
from tuning.search.samplers import concurrency_note
from tuning.search.schedulers import make_scheduler
from tuning.search.settling import settle
from tuning.search.time_budget import TimeBudget
from tuning.search.variants import SizeLimit
from tuning.trial import run_trial
from tuning.warm_start import warm_start

__all__ = ["STAGE_TRIALS", "run_trials"]

STAGE_TRIALS = "trials"


def run_trials(
    work: Workspace,
    record: StudyRecord,
    journal: BaseStorage,
    time_budget: TimeBudget,
    placement: Placement,
    progress: Progress,
    loggers: Mapping[str, Any],
) -> bool:
    """Run a study's missing trials, and return whether all ended before the time was over."""
    study = work.config.study
    num_trials = study.num_trials - len(record.finished())
    search = _open_search(work, record, journal, time_budget, progress)
    if note := concurrency_note(study, placement.max_concurrent):
        progress.message(note)
    progress.start(STAGE_TRIALS, study.num_trials, "trials")
    display = TrialDisplay(work.config, record, search, time_budget, progress)
    search.on_reused = display.on_trial_reused
    # A study resumes from its rows and Optuna's journal, so nothing reads Tune's own state, and only the driver writes
    # it: our trials report no Ray checkpoints.
    with (
        watching(on_fractions=display.show_running) as board,
        TemporaryDirectory(prefix="dim_ray-tune-", ignore_cleanup_errors=True) as folder,
    ):
        tuner = tune.Tuner(
            _trainable(work, placement, board),
            tune_config=tune.TuneConfig(
                search_alg=search,
                scheduler=make_scheduler(work.config, len(work.dataset.train)),
                num_samples=num_trials,
                max_concurrent_trials=placement.max_concurrent,
                # A stopped trial of several workers still waits for them, so its process can't be used again.
                reuse_actors=placement.num_workers == 1,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=folder,
                verbose=0,
                stop=time_budget,
                callbacks=[
                    display,
                    _LostNodes(board, study.max_failures),
                    *make_callbacks(work, loggers, search.lookup, progress),
                ],
                failure_config=tune.FailureConfig(max_failures=study.max_failures + 1),
            ),
        )
        try:
            tuner.fit()
        except tune.TuneError as error:
            if own := _own_error(error):
                raise own from None
            raise
    num_lost = study.num_trials - search.num_ended
    if num_lost > 0 and not time_budget.is_over():
        raise DimError(
            f"the search ended {num_lost} trials early; the log says why. What has finished is kept: run the same "
            "command again to continue."
        )
    return num_lost <= 0


def _open_search(
    work: Workspace, record: StudyRecord, journal: BaseStorage, time_budget: TimeBudget, progress: Progress
) -> StudySearch:
    config, finished = work.config, record.finished()
    limit = SizeLimit(config, work.dataset)
    settle(journal, work.study, config, finished=finished, failed=record.failed())
    start = warm_start(journal, work.study, config, is_new=not finished, limit=limit)
    if start is not None:
        progress.message(
            f"warm start: {start.num_queued} configurations of earlier trials are tried first, and the sampler knows "
            f"{start.num_known} of their results"
        )
    return StudySearch(
        config,
        journal,
        work.study,
        record=record,
        num_trials=config.study.num_trials - len(finished),
        time_budget=time_budget,
        limit=limit,
    )


def _trainable(work: Workspace, placement: Placement, board: Any) -> Any:
    """Return what Tune runs for each trial, with its resources."""
    held: Mapping[str, float] = DRIVER_SHARE  # a trial of several workers only waits for them
    if placement.num_workers == 1:
        held = {"CPU": placement.cpus_per_worker, "GPU": placement.gpus_per_worker}
    return tune.with_resources(tune.with_parameters(run_trial, work=work, placement=placement, board=board), held)


class _LostNodes(tune.Callback):  # type: ignore[misc]  # ray has no types
    """Lets Tune try a trial again for each lost node and once more: the trial itself says what is too often."""

    def __init__(self, board: Any, max_failures: int) -> None:
        self._board = board
        self._max_failures = max_failures

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        nodes = ray.get(self._board.nodes.remote(trial.trial_id))
        trial.max_failures = self._max_failures + 1 + num_lost(nodes)


def _own_error(error: BaseException | None) -> DimError | None:
    """Return the first of our own errors in a chain of causes."""
    while error is not None and not isinstance(error, DimError):
        error = error.__cause__ or error.__context__
    return error
