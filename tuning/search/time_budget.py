"""A time budget: when it's over no trial begins, and those that run are cut at their next rung, to go on another time.

budget = TimeBudget(config)
tune.RunConfig(stop=budget)
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
    """Begins when it's made.

    Args:
        config: The study's configuration.
        clock: Tells the time in seconds.
    """

    def __init__(self, config: Config, clock: Callable[[], float] = time.monotonic) -> None:
        self._epochs = config.matching.epochs
        self._clock = clock
        self._seconds = config.study.time_budget_seconds
        self._began_at = clock()
        self._cut: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Leaves nothing for Tune to save."""
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> TimeBudget:
        """Is one, however often Tune copies what it's given."""
        return self

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether Tune is to stop a trial that has reported."""
        if trial_id not in self._cut and self.is_over() and result[TIME_ATTRIBUTE] < self._epochs:
            self._cut.add(trial_id)
        return trial_id in self._cut

    def stop_all(self) -> bool:
        """Never: every trial is asked by itself, at its next rung."""
        return False

    def is_over(self) -> bool:
        """Whether the time is over."""
        return self._seconds is not None and self._clock() - self._began_at >= self._seconds

    def has_cut(self, trial_id: str) -> bool:
        """Whether a trial was stopped here: it's neither finished nor given up."""
        return trial_id in self._cut
