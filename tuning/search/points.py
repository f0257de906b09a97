"""Points of the space that are chosen without any result: a quasi-random sequence, and a grid.

points = make_points(config, limit)
points.following(study.get_trials())  # {"pool.size": 4, "matching.weight": 0.1}, or None
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import scipy.stats
from optuna.trial import FrozenTrial

from dim_ray.config import Config, assignments
from dim_ray.core.training.random import derive_seed
from tuning.search.space import configure, encoded
from tuning.search.variants import SizeLimit

__all__ = ["Points", "make_points"]


class Points(Protocol):
    """A series of points, whose place in it follows from the trials that there are."""

    def following(self, trials: Sequence[FrozenTrial]) -> dict[str, Any] | None:
        """Return the parameters that follow on all trials of Optuna's study; None at the end."""


def make_points(config: Config, limit: SizeLimit | None) -> Points:
    """Return the grid of a study that searches one, otherwise a sequence that spreads over the whole space."""
    return _Grid(config) if config.study.sampler == "grid" else _Sequence(config, limit)


class _Sequence:
    """Sobol's sequence, scrambled, in which lists have coordinates as ranges do.

    A generator beyond the limit is replaced by one within it, drawn at random.
    """

    def __init__(self, config: Config, limit: SizeLimit | None) -> None:
        self._config = config
        self._limit = limit
        self._seed = derive_seed(config.study.seed, "sampler", 0)

    def following(self, trials: Sequence[FrozenTrial]) -> dict[str, Any] | None:
        index = len(trials)
        point = self._point(index, {})
        if self._limit is not None and not self._limit.holds(configure(self._config, point).generator):
            point = self._point(index, random.Random(index).choice(self._limit.choices()))
        return point

    def _point(self, index: int, given: Mapping[str, Any]) -> dict[str, Any]:
        choices = self._config.study.choices
        chosen: dict[str, Any] = {}
        if not choices:
            return chosen
        sequence = scipy.stats.qmc.Sobol(len(choices), rng=self._seed)
        if index > 0:  # SciPy refuses 0
            sequence.fast_forward(index)
        [shares] = sequence.random(1).tolist()
        for choice, share in zip(choices, shares, strict=True):
            if choice.is_open(chosen):
                chosen[choice.field] = given.get(choice.field, choice.at(share))
        return chosen


class _Grid:
    """Every combination once, conditional parameters where they apply, in random order."""

    def __init__(self, config: Config) -> None:
        self._study = config.study
        every = assignments(self._study.choices, lambda choice: choice.points(self._study.grid_points))
        self._points = list(every)
        random.Random(derive_seed(self._study.seed, "sampler", 0)).shuffle(self._points)

    def following(self, trials: Sequence[FrozenTrial]) -> dict[str, Any] | None:
        taken = {frozenset(trial.params.items()) for trial in trials}
        open_points = (one for one in self._points if frozenset(encoded(self._study, one).items()) not in taken)
        return next(open_points, None)
