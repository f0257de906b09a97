"""Optuna's samplers by name: how the next trial is chosen.

make_sampler(config, num_drawn=0)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from dim_ray.config import Config, StudyConfig, assignments
from dim_ray.core.training.random import derive_seed

__all__ = ["make_sampler"]

_NUM_SEEDS = 2**32  # that Optuna takes


def make_sampler(config: Config, num_drawn: int) -> BaseSampler:
    """Return the sampler that the study names.

    The number of trials that the study has drawn, finished or not, is part of the seed of samplers that don't find
    their place in the journal, so that a resumed study doesn't repeat its draws.
    """
    study = config.study
    fixed = derive_seed(study.seed, "sampler", 0) % _NUM_SEEDS
    return _SAMPLERS[study.sampler](study, derive_seed(study.seed, "sampler", num_drawn) % _NUM_SEEDS, fixed)


class _Grid(optuna.samplers.GridSampler):
    """Grid in the space's order, with each combination of conditional parameters once.

    Optuna's own knows no conditions, and at its end stops `Study.optimize`, which doesn't run here.
    """

    def __init__(self, study: StudyConfig, seed: int) -> None:
        values = {choice.field: choice.points(study.grid_points) for choice in study.choices}
        super().__init__(values, seed=seed)
        points = assignments(study.choices, lambda choice: values[choice.field])
        self._param_names = list(values)
        self._all_grids = [tuple(point.get(name, own[0]) for name, own in values.items()) for point in points]
        self._n_min_trials = len(self._all_grids)
        self._rng.rng.seed(seed)
        self._rng.rng.shuffle(self._all_grids)  # type: ignore[arg-type]  # as in Optuna

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        pass


def _qmc(study: StudyConfig, seed: int, fixed: int) -> BaseSampler:
    # The journal has the sequence's place under its seed. Parameters with lists aren't in it, and are drawn at random.
    others = optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.QMCSampler(
        seed=fixed, scramble=True, independent_sampler=others, warn_independent_sampling=False
    )


_SAMPLERS: Mapping[str, Callable[[StudyConfig, int, int], BaseSampler]] = {
    # Running trials count as bad, so that concurrent ones differ.
    "tpe": lambda study, seed, fixed: optuna.samplers.TPESampler(seed=seed, constant_liar=True),
    "gp": lambda study, seed, fixed: optuna.samplers.GPSampler(seed=seed),
    "nsga2": lambda study, seed, fixed: optuna.samplers.NSGAIISampler(seed=seed),
    "qmc": _qmc,
    "random": lambda study, seed, fixed: optuna.samplers.RandomSampler(seed=seed),
    "grid": lambda study, seed, fixed: _Grid(study, fixed),
}
