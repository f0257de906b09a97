"""A study's time budget: when it's over, no trial begins, and running ones are cut at their next rung.

time_budget = TimeBudget(config)
tune.RunConfig(stop=time_budget)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray import tune

from dim_ray.config import Config
from tuning.search.schedulers import TIME_ATTRIBUTE

__all__ = ["TimeBudget"]


class TimeBudget(tune.Stopper):  # type: ignore[misc]  # ray has no types
    """Stopper of Ray Tune whose time starts when it is made."""

    def __init__(self, config: Config, clock: Callable[[], float] = time.monotonic) -> None:
        self._epochs = config.matching.epochs
        self._clock = clock
        self._seconds = config.study.time_budget_seconds
        self._began_at = clock()
        self._cut: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # for Tune to save

    def __deepcopy__(self, memo: dict[int, Any]) -> TimeBudget:
        return self  # Tune copies what it's given

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return whether Tune has to stop a trial that has reported."""
        if trial_id not in self._cut and self.is_over() and result[TIME_ATTRIBUTE] < self._epochs:
            self._cut.add(trial_id)
        return trial_id in self._cut

    def stop_all(self) -> bool:
        return False  # each trial stops at its next rung

    def is_over(self) -> bool:
        """Return whether the time is over."""
        return self._seconds is not None and self._clock() - self._began_at >= self._seconds

    def has_cut(self, trial_id: str) -> bool:
        """Return whether this budget stopped a trial, which is then unfinished."""
        return trial_id in self._cut
