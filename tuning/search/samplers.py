"""Samplers by name: who chooses the next trial.

    make_sampler(config, num_drawn=0)

All are Optuna's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from dim_ray.config import Config, StudyConfig
from dim_ray.core.training.random import derive_seed
from tuning.search.space import grid

__all__ = ["make_sampler"]

_NUM_SEEDS = 2**32  # that Optuna takes


def make_sampler(config: Config, num_drawn: int) -> BaseSampler:
    """Returns the sampler that the study names.

    Args:
        config: Name, space and seed.
        num_drawn: Trials that the study has drawn, finished or not. A resumed study must not draw again what it drew
            before, so they are in the seed of a sampler that doesn't find its place in the journal itself.
    """
    study = config.study
    fixed = derive_seed(study.seed, "sampler", 0) % _NUM_SEEDS
    return _SAMPLERS[study.sampler](study, derive_seed(study.seed, "sampler", num_drawn) % _NUM_SEEDS, fixed)


class _Grid(optuna.samplers.GridSampler):
    """Has each combination once, also where parameters have conditions, and leaves it to the study when it has ended.

    Optuna's own knows no conditions, and asks `Study.optimize` to stop, which doesn't run here.
    """

    def __init__(self, study: StudyConfig, seed: int) -> None:
        values = grid(study)
        super().__init__(values, seed=seed)
        bound = {choice.field: choice for choice in study.choices if choice.when}

        def is_first(point: Sequence[Any]) -> bool:
            """Whether a point stands for those that differ in what isn't chosen there."""
            chosen = dict(zip(self._param_names, point, strict=True))
            return all(choice.is_open(chosen) or chosen[name] == values[name][0] for name, choice in bound.items())

        if bound:
            self._all_grids = [point for point in self._all_grids if is_first(point)]
            self._n_min_trials = len(self._all_grids)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        pass


def _tpe(study: StudyConfig, seed: int, fixed: int) -> BaseSampler:
    # What runs counts as bad, so that trials side by side differ.
    return optuna.samplers.TPESampler(seed=seed, constant_liar=True)


def _gp(study: StudyConfig, seed: int, fixed: int) -> BaseSampler:
    return optuna.samplers.GPSampler(seed=seed)


def _nsga2(study: StudyConfig, seed: int, fixed: int) -> BaseSampler:
    return optuna.samplers.NSGAIISampler(seed=seed)


def _qmc(study: StudyConfig, seed: int, fixed: int) -> BaseSampler:
    # The journal has the sequence's place under its seed. Parameters from a list aren't in it, and are drawn at random.
    others = optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.QMCSampler(
        seed=fixed, scramble=True, independent_sampler=others, warn_independent_sampling=False
    )


def _random(study: StudyConfig, seed: int, fixed: int) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


def _grid(study: StudyConfig, seed: int, fixed: int) -> BaseSampler:
    return _Grid(study, fixed)


_SAMPLERS: Mapping[str, Callable[[StudyConfig, int, int], BaseSampler]] = {
    "tpe": _tpe,
    "gp": _gp,
    "nsga2": _nsga2,
    "qmc": _qmc,
    "random": _random,
    "grid": _grid,
}
