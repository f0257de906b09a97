"""Ray Tune's events on the progress display, and the reason of a failed trial in its row."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune

from dim_ray.config import Config
from dim_ray.errors import DimError
from dim_ray.progress import Progress
from tuning.record import StudyRecord
from tuning.search.optuna_search import FAILED_TRIAL, METRIC, REUSED_TRIAL, TIME_ATTRIBUTE, StudySearch
from tuning.search.settling import DRAWN_BY, SAMPLER
from tuning.search.time_budget import TimeBudget
from tuning.trial import GIVEN_UP

__all__ = ["TrialDisplay"]

log = logging.getLogger(__name__)


class TrialDisplay(tune.Callback):  # type: ignore[misc]  # ray has no types
    """Callback that counts trials and shows the best validation accuracy so far."""

    def __init__(
        self, config: Config, record: StudyRecord, search: StudySearch, time_budget: TimeBudget, progress: Progress
    ) -> None:
        self._time_budget = time_budget
        self._epochs = config.matching.epochs
        self._record = record
        self._search = search
        self._progress = progress
        self._running: dict[str, float] = {}
        self._lock = threading.RLock()
        rows = record.trials()
        rows = rows[rows["state"] != "failed"]
        self._done = len(rows)
        self._stopped = int((rows["state"] == "stopped").sum())
        self._failed = int((rows["state"] == "diverged").sum())
        completed = rows[rows["state"] == "completed"]["objective"]
        self._best = float(completed.max()) if len(completed) else None
        self._sampled = int((rows["drawn_by"] == SAMPLER).sum())
        self._show_counts()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # for Tune to save: a study resumes from its rows and Optuna's journal

    def show_running(self, fractions: Mapping[str, float]) -> None:
        """Show how far the running trials are, by their ids; called from a thread."""
        with self._lock:
            self._running |= {key: max(done, fractions.get(key, 0.0)) for key, done in self._running.items()}
            self._show()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        with self._lock:
            self._running[trial.trial_id] = 0.0
        number, parameters = self._search.lookup(trial.trial_id)
        log.info("Trial %d was drawn by: %s", number, self._search.drawn_by(trial.trial_id))
        log.info("Trial %d began: %s", number, parameters)
        self._show()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        with self._lock:
            done = max(self._running.get(trial.trial_id, 0.0), result[TIME_ATTRIBUTE] / self._epochs)
            self._running[trial.trial_id] = done
        number, _ = self._search.lookup(trial.trial_id)
        log.info("Trial %d, epoch %d: %s %.4f", number, result[TIME_ATTRIBUTE], METRIC, result[METRIC])
        if result[TIME_ATTRIBUTE] >= self._epochs and "diverged" not in result:
            self._best = max(self._best or 0.0, result[METRIC])
        self._show()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if self._time_budget.has_cut(trial.trial_id):
            with self._lock:
                self._running.pop(trial.trial_id, None)
            self._show()
            return
        result = trial.last_result or {}
        if "diverged" in result:
            self._progress.message(f"a trial diverged: {result['diverged']}")
        self._count(result)
        self._end(trial)

    def on_trial_reused(self, number: int, result: Mapping[str, Any]) -> None:
        """Show that a trial took over the outcome of an equal one, of which Tune doesn't know."""
        if FAILED_TRIAL in result:
            text = f"trial {number} is the same as trial {result[FAILED_TRIAL]} and failed with it"
        else:
            text = f"trial {number} is the same as trial {result[REUSED_TRIAL]} and has its result"
        self._progress.message(text)
        self._count(result)
        self._sampled += result.get(DRAWN_BY) == SAMPLER
        self._done += 1
        self._show()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._failed += 1
        # Not trial.get_error(), which reads a copy that is written later.
        error = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
        number, parameters = self._search.lookup(trial.trial_id)
        log.error("Trial %d failed: %s", number, error)
        text = _reason(error)
        drawn_by = self._search.drawn_by(trial.trial_id)
        self._record.write_trial(number, parameters, None, error=text, drawn_by=drawn_by)
        self._progress.message(f"trial {number} failed: {text} (details are in the log)")
        self._end(trial)

    def _count(self, result: Mapping[str, Any]) -> None:
        if METRIC not in result or "diverged" in result:
            self._failed += 1
        elif result[TIME_ATTRIBUTE] < self._epochs:
            self._stopped += 1

    def _end(self, trial: Any) -> None:
        with self._lock:
            self._running.pop(trial.trial_id, None)
            self._sampled += self._search.drawn_by(trial.trial_id) == SAMPLER
            self._done += 1
            self._show()

    def _show(self) -> None:
        with self._lock:
            self._progress.advance(self._done + sum(self._running.values()))
            self._show_counts()

    def _show_counts(self) -> None:
        named = ((self._stopped, "stopped"), (self._failed, "failed"), (self._sampled, "drawn by the sampler"))
        ended = ", ".join(f"{count} {how}" for count, how in named if count)
        text = f"{self._done} done{f' ({ended})' if ended else ''}, {len(self._running)} running"
        if self._best is not None:
            text += f"; best validation accuracy {100 * self._best:.1f} %"
        self._progress.status(text)


def _reason(error: str) -> str:
    """Return the last failure's own sentence, without the traceback, from Tune's file of all failures."""
    failures = [failure for failure in error.split("Failure # ") if GIVEN_UP not in failure]
    lines = [line.strip() for line in failures[-1].splitlines() if line.strip()]
    return lines[-1].removeprefix(f"{DimError.__module__}.") if lines else "unknown reason"
