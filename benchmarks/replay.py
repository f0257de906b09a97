"""Searches on recorded curves: a landscape fitted to them, and trials that take no training.

    landscape = Landscape(pd.read_parquet(CURVES), SPACE)
    regrets = replay(landscape, VARIANTS["tpe"], num_trials=32, num_slots=4, seed=0)

A trial's accuracy is that of a Gaussian process or a forest through the recorded means, plus the spread of one student.
The forest is there because `gp` assumes a process, which would favour it. A study keeps the trial with the highest
measured accuracy; its regret is how far that one's mean is below the best of the whole landscape. The regret of the
best trial, which the spread may hide, is beside it.
"""

from __future__ import annotations

import heapq
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import optuna
import pandas as pd
import scipy.stats
from numpy.typing import NDArray
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from dim_ray.config import Config, StudyConfig
from dim_ray.config.study import Scheduler
from dim_ray.pipeline.generators import rung_epochs
from tuning.search.points import make_points
from tuning.search.samplers import num_start
from tuning.search.schedulers import METRIC, TIME_ATTRIBUTE, make_scheduler
from tuning.search.space import draw, encoded

__all__ = ["VARIANTS", "Fit", "Landscape", "Variant", "mean_interval", "replay", "replay_scheduler"]

Fit = Literal["process", "forest"]

_NUM_TREES = 50
_NUM_SLICES = 10  # of the held-out check
_NUM_PROBES = 4096  # among which the best place is sought
_ENOUGH_IMAGES = 1000  # of a training split, so that rungs begin after the first epoch
_JITTER = 0.1  # by which the lengths of trials differ


@dataclass(frozen=True)
class Variant:
    """A way to search."""

    sampler: Callable[[int], BaseSampler]
    """Takes a seed."""
    starts: bool = True
    """Whether the first trials are those of our start, which spreads over the space."""
    spreads: bool = False
    """Whether all are."""
    is_ordered: bool = True
    """Whether lists of numbers have an order."""


def _tpe(seed: int, **options: Any) -> BaseSampler:
    return TPESampler(**{"seed": seed, "n_startup_trials": 1, "multivariate": True, **options})


VARIANTS: Mapping[str, Variant] = {
    "random": Variant(lambda seed: RandomSampler(seed=seed), starts=False),
    "qmc": Variant(lambda seed: RandomSampler(seed=seed), spreads=True),
    "tpe": Variant(_tpe),
    "tpe, ten random trials, names": Variant(
        lambda seed: _tpe(seed, n_startup_trials=10), starts=False, is_ordered=False
    ),
    "tpe, names": Variant(_tpe, is_ordered=False),
    "tpe, one parameter at a time": Variant(lambda seed: _tpe(seed, multivariate=False)),
    "gp": Variant(lambda seed: GPSampler(seed=seed, n_startup_trials=1, warn_independent_sampling=False)),
}


class Landscape:
    """Mean accuracy anywhere in the space, from recorded curves.

    Args:
        curves: Rows of `benchmarks.curves`.
        space: The field `study.space` that they were drawn from, without conditions.
        fit: What goes through their means.
    """

    def __init__(self, curves: pd.DataFrame, space: Mapping[str, Any], fit: Fit = "process") -> None:
        self._kind = fit
        self.study = StudyConfig(space=dict(space))
        self._choices = self.study.choices
        self.epochs = int(curves["epoch"].max())
        of_epoch = curves.groupby(["generator", "epoch"])["accuracy"]
        last = curves[curves["epoch"] == self.epochs]
        self.student_std = math.sqrt(last.groupby("generator")["accuracy"].var().mean())
        """Standard deviation of students of one generator."""
        self._means: pd.DataFrame = of_epoch.mean().unstack()
        first = curves.drop_duplicates("generator").set_index("generator").loc[self._means.index]
        self._points = np.array([self._coordinates(dict(row)) for _, row in first.iterrows()])
        self.num_generators = len(first)
        self.epoch_seconds = float((last["training_seconds"] / self.epochs).median())
        self.student_seconds = float(last["student_seconds"].median())
        self._fits = {int(epoch): self._fit(int(epoch)) for epoch in self._means.columns}
        self._known: dict[tuple[Any, ...], float] = {}

    def mean(self, parameters: Mapping[str, Any], epoch: int | None = None) -> float:
        """Return the mean accuracy after an epoch, by default the last."""
        epoch = epoch or self.epochs
        key = (epoch, *parameters.values())
        if key not in self._known:
            self._known[key] = float(self._fits[epoch].predict(self._coordinates(parameters)[None])[0])
        return self._known[key]

    @cached_property
    def best(self) -> float:
        """Highest mean accuracy after the last epoch."""
        return float(self._fits[self.epochs].predict(self._probes).max())

    @cached_property
    def spread(self) -> float:
        """Standard deviation of the mean accuracy over the space."""
        return float(self._fits[self.epochs].predict(self._probes).std())

    def held_out(self) -> tuple[float, float]:
        """Return the root mean squared error of recorded means that the fit didn't see, and of their average's."""
        values = self._means[self.epochs].to_numpy()
        slices = np.arange(len(values)) % _NUM_SLICES
        predicted = np.empty_like(values)
        for index in range(_NUM_SLICES):
            seen = slices != index
            predicted[~seen] = self._fit(self.epochs, seen).predict(self._points[~seen])
        return float(np.sqrt(np.mean((predicted - values) ** 2))), float(values.std())

    @property
    def _probes(self) -> NDArray[np.float64]:
        shares = scipy.stats.qmc.Sobol(len(self._choices), rng=0).random(_NUM_PROBES)
        return np.array([self._coordinates({c.field: c.at(s) for c, s in zip(self._choices, own, strict=True)})
                         for own in shares.tolist()])  # fmt: skip

    def _coordinates(self, parameters: Mapping[str, Any]) -> NDArray[np.float64]:
        found = []
        for choice in self._choices:
            value = parameters[choice.field]
            if choice.values:
                found.append(choice.values.index(value) / max(1, len(choice.values) - 1))
            elif choice.log:
                found.append(math.log(value / choice.low) / math.log(choice.high / choice.low))
            else:
                found.append((value - choice.low) / (choice.high - choice.low))
        return np.array(found)

    def _fit(self, epoch: int, seen: NDArray[np.bool_] | None = None) -> Any:
        seen = np.ones(len(self._points), dtype=bool) if seen is None else seen
        if self._kind == "forest":
            forest = ExtraTreesRegressor(_NUM_TREES, random_state=0)
            return forest.fit(self._points[seen], self._means[epoch].to_numpy()[seen])
        kernel = ConstantKernel(1.0, (1e-3, 1e2)) * RBF([1.0] * len(self._choices), (0.1, 1e2)) + WhiteKernel(0.5)
        fit = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=1, random_state=0)
        return fit.fit(self._points[seen], self._means[epoch].to_numpy()[seen])


def replay(
    landscape: Landscape, variant: Variant, *, num_trials: int, num_slots: int, seed: int
) -> list[tuple[float, float]]:
    """Run a study on the landscape, some trials side by side.

    Returns:
        Regret of the trial that is kept, and of the best one, after each trial that ends.
    """
    rng = np.random.default_rng(seed)
    config = Config(study=replace(landscape.study, num_trials=num_trials, seed=seed, sampler="tpe"))
    study = optuna.create_study(direction="maximize", sampler=variant.sampler(seed))
    points = make_points(config, None)
    running: list[tuple[float, int, optuna.Trial, float, float]] = []
    regrets: list[tuple[float, float]] = []
    best_seen, regret, least, num_drawn, now = -math.inf, 1.0, 1.0, 0, 0.0
    while len(regrets) < num_trials:
        while len(running) < num_slots and num_drawn < num_trials:
            trials = study.get_trials(deepcopy=False)
            is_start = num_drawn < num_start(config.study) or not regrets
            if variant.spreads or (variant.starts and is_start):
                study.enqueue_trial(_told(config.study, points.following(trials) or {}, variant))
            trial = study.ask()
            parameters = draw(trial, config.study) if variant.is_ordered else _draw_names(trial, config.study)
            mean = landscape.mean(parameters)
            measured = mean + landscape.student_std * rng.standard_normal()
            ends_at = now + 1.0 + _JITTER * rng.standard_normal()
            heapq.heappush(running, (ends_at, num_drawn, trial, mean, measured))
            num_drawn += 1
        now, _, trial, mean, measured = heapq.heappop(running)
        study.tell(trial, measured, state=TrialState.COMPLETE)
        if measured > best_seen:
            best_seen, regret = measured, landscape.best - mean
        least = min(least, landscape.best - mean)
        regrets.append((regret, least))
    return regrets


def replay_scheduler(
    landscape: Landscape, scheduler: Scheduler, *, budget_seconds: float, num_slots: int, seed: int
) -> list[tuple[float, float]]:
    """Run a study of `tpe` on the landscape with a scheduler, until its device time is over.

    Rungs are after 1, 3, ... epochs. A rung costs as many students as in a study, the end one.

    Returns:
        Device seconds of all trials so far and the regret, for each trial that completes.
    """
    rng = np.random.default_rng(seed)
    num_trials = math.ceil(budget_seconds / (landscape.epochs * landscape.epoch_seconds))
    study_config = replace(landscape.study, num_trials=num_trials, seed=seed, scheduler=scheduler)
    # Of raw weights, because an average forgets its prior too late for any rung.
    config = Config(
        study=study_config,
        matching=replace(Config().matching, epochs=landscape.epochs),
        evaluation=replace(Config().evaluation, weights="raw"),
    )
    rungs = rung_epochs(config, _ENOUGH_IMAGES)
    judge = make_scheduler(config, _ENOUGH_IMAGES)
    study = optuna.create_study(direction="maximize", sampler=_tpe(seed))
    points = make_points(config, None)
    waiting: Any = SimpleNamespace(get_live_trials=lambda: [SimpleNamespace(status="PENDING")])  # as Tune always has
    events: list[tuple[float, int, _Running]] = []
    outcomes: list[tuple[float, float]] = []
    best_seen, regret, num_drawn, now, spent = -math.inf, 1.0, 0, 0.0, 0.0

    def advance(trial: _Running) -> None:
        nonlocal spent
        epochs = rungs[trial.num_rungs] - (rungs[trial.num_rungs - 1] if trial.num_rungs else 0)
        num_students = study_config.rung_seeds if trial.num_rungs < len(rungs) - 1 else study_config.selection_seeds
        seconds = epochs * landscape.epoch_seconds * (1.0 + _JITTER * rng.standard_normal())
        seconds += num_students * landscape.student_seconds
        spent += seconds
        heapq.heappush(events, (now + seconds, trial.number, trial))

    while events or spent < budget_seconds:
        while len(events) < num_slots and spent < budget_seconds:
            if num_drawn < num_start(study_config) or not outcomes:
                point = points.following(study.get_trials(deepcopy=False)) or {}
                study.enqueue_trial(encoded(study_config, point))
            asked = study.ask()
            trial = _Running(num_drawn, asked, draw(asked, study_config))
            judge.on_trial_add(waiting, trial)
            num_drawn += 1
            advance(trial)
        now, _, trial = heapq.heappop(events)
        epoch, is_last = rungs[trial.num_rungs], trial.num_rungs == len(rungs) - 1
        num_students = study_config.selection_seeds if is_last else study_config.rung_seeds
        noise = landscape.student_std / math.sqrt(num_students) * rng.standard_normal()
        measured = landscape.mean(trial.parameters, epoch) + noise
        trial.asked.report(measured, epoch)
        decision = judge.on_trial_result(waiting, trial, {TIME_ATTRIBUTE: epoch, METRIC: measured})
        trial.num_rungs += 1
        if is_last:
            study.tell(trial.asked, measured)
            if measured > best_seen:
                best_seen, regret = measured, landscape.best - landscape.mean(trial.parameters)
            outcomes.append((spent, regret))
        elif decision == judge.STOP:
            study.tell(trial.asked, state=TrialState.PRUNED)
        else:
            advance(trial)
    return outcomes


@dataclass(eq=False)
class _Running:
    """What a scheduler sees of Ray Tune's trial, and what it has drawn."""

    number: int
    asked: optuna.Trial
    parameters: dict[str, Any]
    num_rungs: int = 0
    """Rungs that it has reached."""
    status: str = "RUNNING"

    @property
    def trial_id(self) -> str:
        return str(self.number)


def _told(study: StudyConfig, parameters: Mapping[str, Any], variant: Variant) -> dict[str, Any]:
    return encoded(study, parameters) if variant.is_ordered else dict(parameters)


def _draw_names(trial: optuna.Trial, study: StudyConfig) -> dict[str, Any]:
    return {
        choice.field: trial.suggest_categorical(choice.field, choice.values)
        if choice.values
        else trial.suggest_float(choice.field, choice.low, choice.high, log=choice.log)
        for choice in study.choices
    }


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and half the width of its 95 % interval."""
    return statistics.fmean(values), 1.96 * statistics.stdev(values) / math.sqrt(len(values))
