"""Optuna's samplers by name: how the next trial is chosen.

make_sampler(config, num_drawn=0)
num_start(config.study)  # trials that are drawn before the sampler
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler

from dim_ray.config import Config, StudyConfig
from dim_ray.core.training.random import derive_seed

__all__ = ["concurrency_note", "learns", "make_sampler", "num_start"]

_NUM_SEEDS = 2**32  # that Optuna takes
_START_SHARE, _MOST_START = 0.25, 10
_MOST_SIDE_BY_SIDE = 3  # the trials' number divided by it
_FEWEST_TRIALS = 4  # from which it matters
_NO_START = 1  # result from which a sampler learns: what comes before is drawn here


def learns(study: StudyConfig) -> bool:
    """Return whether the study's sampler learns from results."""
    return study.sampler in ("tpe", "gp", "nsga2")


def num_start(study: StudyConfig) -> int:
    """Return how many trials spread over the space before a sampler that learns takes over."""
    return min(_MOST_START, math.ceil(_START_SHARE * study.num_trials)) if learns(study) else 0


def concurrency_note(study: StudyConfig, num_concurrent: int) -> str | None:
    """Return what it costs that so many trials run side by side, as text; None if it costs little."""
    most, num_trials = study.num_trials // _MOST_SIDE_BY_SIDE, study.num_trials
    num_blind = min(num_concurrent, num_trials)
    if not learns(study) or num_trials < _FEWEST_TRIALS or num_blind <= most:
        return None
    return (
        f"{num_blind} of {num_trials} trials run side by side, and are drawn before the first result: {study.sampler} "
        f"learns little. --max-concurrent {most} takes longer, and lets it choose more of them."
    )


def make_sampler(config: Config, num_drawn: int) -> BaseSampler:
    """Return the sampler that the study names; of those that don't learn, one for what `points` leaves open.

    The number of trials that the study has drawn, finished or not, is part of the seed, so that a resumed study doesn't
    repeat its draws.
    """
    study = config.study
    return _SAMPLERS.get(study.sampler, _random)(study, derive_seed(study.seed, "sampler", num_drawn) % _NUM_SEEDS)


def _random(study: StudyConfig, seed: int) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


def _tpe(study: StudyConfig, seed: int) -> BaseSampler:
    # Parameters are drawn together, conditional ones with those that apply where they do; of several objectives, one by
    # one, as is Optuna's default. Running trials count as bad, so that concurrent ones differ.
    is_joint = len(study.objectives) == 1
    is_conditional = any(choice.when for choice in study.choices)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # of `group`
        return optuna.samplers.TPESampler(
            seed=seed,
            n_startup_trials=_NO_START,
            constant_liar=True,
            multivariate=is_joint,
            group=is_joint and is_conditional,
        )


def _gp(study: StudyConfig, seed: int) -> BaseSampler:
    # It models what all trials share; conditional parameters are left to TPE.
    return optuna.samplers.GPSampler(
        seed=seed,
        n_startup_trials=_NO_START,
        independent_sampler=_tpe(study, seed),
        warn_independent_sampling=False,
    )


_SAMPLERS: Mapping[str, Callable[[StudyConfig, int], BaseSampler]] = {
    "tpe": _tpe,
    "gp": _gp,
    "nsga2": lambda study, seed: optuna.samplers.NSGAIISampler(seed=seed),
}
