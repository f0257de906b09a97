"""Pool scaling: a curve of accuracy against pool size, and the size from which more teachers don't pay.

    scaling = fit_pool_scaling(dim_ray.open_store("dim_storage").trials(study="digits-0123abcd"))
    scaling.pays_until, scaling.curve
    for line in scaling.lines():
        print(line)

The curve is accuracy = asymptote - amplitude x size^-exponent by least squares. Its interval is from a bootstrap of the
trials' residuals, which assumes equal noise at all sizes. The verdict uses only the trials' means: such a curve rises
everywhere or nowhere.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dim_ray.errors import UsageError, listed
from dim_ray.progress.stages import format_percent
from tuning.intervals import CONFIDENCE, Interval, t_interval

__all__ = ["PoolScaling", "fit_pool_scaling", "is_pool_scaling"]

_MIN_SIZES = 3
_EXPONENTS = np.geomspace(0.1, 4.0, 60)  # from nearly logarithmic to flat from 2 teachers on
_NUM_RESAMPLES = 1000
_OF_A_TRIAL = {"pool.size", "pool.seed", "prior.seed", "matching.seed"}  # trials of a group may differ in them
_ELSEWHERE = ("study.", "storage.")

_Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PoolScaling:
    """Validation accuracy in [0, 1] against pool size; tuples have one value per size."""

    sizes: tuple[int, ...]
    """Numbers of teachers, ascending."""
    means: tuple[float, ...]
    stds: tuple[float, ...]
    """Mean and standard deviation over trials; NaN for one trial."""
    num_trials: tuple[int, ...]
    num_seeds: int
    """Seeds of students that a trial's accuracy is the mean of."""
    asymptote: float
    amplitude: float
    exponent: float
    """accuracy = asymptote - amplitude x size^-exponent."""
    curve: tuple[float, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    """The fitted curve and the ends of its interval."""
    gains: tuple[Interval, ...]
    """Gain from each smaller size to the largest."""

    @property
    def pays_until(self) -> int:
        """The smallest size whose gain to the largest isn't above zero; the largest if there is none."""
        unpaid = (size for size, gain in zip(self.sizes, self.gains, strict=False) if not gain.is_above_zero)
        return next(unpaid, self.sizes[-1])

    @property
    def text(self) -> str:
        """The verdict, such as: more than 8 teachers don't pay: from 8 to 64 gains 0.1 [-0.3, 0.5] points."""
        largest, until = self.sizes[-1], self.pays_until
        if until == largest:
            what, place = f"{largest} teachers still pay", -1
        else:
            what = f"more than {until} teachers don't pay" if until > 1 else "more than 1 teacher doesn't pay"
            place = self.sizes.index(until)
        return f"{what}: from {self.sizes[:-1][place]} to {largest} gains {self.gains[place].points()} points"

    def lines(self) -> list[str]:
        """Return the table, the curve and the verdict as text."""
        counts = " or ".join(map(str, sorted(set(self.num_trials))))
        share = f"{CONFIDENCE:.0%}".replace("%", " %")
        header = f"{'teachers':>8}  {'accuracy':<12} {'curve':<19} gain to {self.sizes[-1]}"
        rows = [
            f"{size:>8}  {format_percent(mean, std):<12} {_fit(*fit):<19} {gain}"
            for size, mean, std, fit, gain in zip(
                self.sizes,
                self.means,
                self.stds,
                zip(self.curve, self.lower, self.upper, strict=True),
                [*(gain.points() for gain in self.gains), "-"],
                strict=True,
            )
        ]
        return [
            f"validation accuracy in % against pool size: mean ± std of n = {counts} trials, each the mean of "
            f"{self.num_seeds} seeds of students; {share} intervals",
            header,
            *rows,
            f"curve: {100 * self.asymptote:.1f} - {100 * self.amplitude:.1f} x teachers^-{self.exponent:.2f}",
            self.text,
        ]


def is_pool_scaling(trials: pd.DataFrame) -> bool:
    """Return whether `fit_pool_scaling` takes these rows."""
    return _problem(_usable(trials)) is None


def fit_pool_scaling(trials: pd.DataFrame) -> PoolScaling:
    """Fit accuracy against pool size to the trials of one study that completed and ran themselves.

    Raises:
        UsageError: There are fewer than three sizes, no size has two trials, or trials differ in more than pool size
            and seeds.
    """
    rows = _usable(trials)
    if (problem := _problem(rows)) is not None:
        raise UsageError(f"no curve of accuracy against pool size: {problem}")
    sizes, accuracies = rows["pool_size"].to_numpy(float), rows["objective"].to_numpy(float)
    groups = rows.groupby("pool_size")["objective"]
    at = groups.mean().index.to_numpy(float)
    [exponent], [[asymptote, amplitude]] = _fitted(sizes, accuracies[None])
    fitted = asymptote - amplitude * sizes**-exponent
    residuals = (accuracies - fitted) * math.sqrt(len(rows) / (len(rows) - 3))  # three parameters are fitted
    drawn = np.random.default_rng(0).choice(residuals, (_NUM_RESAMPLES, len(rows)))
    exponents, weights = _fitted(sizes, fitted + drawn)
    curves = weights[:, :1] - weights[:, 1:] * at ** -exponents[:, None]
    lower, upper = np.quantile(curves, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return PoolScaling(
        sizes=tuple(map(int, at)),
        means=tuple(groups.mean()),
        stds=tuple(groups.std()),
        num_trials=tuple(groups.size()),
        num_seeds=int(rows["num_seeds"].fillna(1).min()),
        asymptote=float(asymptote),
        amplitude=float(amplitude),
        exponent=float(exponent),
        curve=tuple((asymptote - amplitude * at**-exponent).tolist()),
        lower=tuple(lower.tolist()),
        upper=tuple(upper.tolist()),
        gains=_gains(groups.agg(["mean", "size"]), accuracies - groups.transform("mean").to_numpy()),
    )


def _fitted(sizes: _Array, accuracies: _Array) -> tuple[_Array, _Array]:
    """Return exponents (R,), and asymptotes and amplitudes (R, 2), of accuracies (R, N) at sizes (N,).

    The rest is linear once the exponent is fixed, so try each exponent and take the best.
    """
    designs = np.stack([np.stack([np.ones_like(sizes), -(sizes**-exponent)], axis=1) for exponent in _EXPONENTS])
    weights = accuracies @ np.linalg.pinv(designs).transpose(0, 2, 1)  # (E, R, 2)
    errors = ((accuracies - weights @ designs.transpose(0, 2, 1)) ** 2).sum(axis=2)  # (E, R)
    best = errors.argmin(axis=0)
    return _EXPONENTS[best], weights[best, np.arange(len(accuracies))]


def _gains(groups: pd.DataFrame, deviations: _Array) -> tuple[Interval, ...]:
    """Return the gain from each smaller size to the largest, with noise pooled over all deviations from their mean."""
    freedom = len(deviations) - len(groups)
    std = math.sqrt(float((deviations**2).sum()) / freedom)
    *others, (most, count) = zip(groups["mean"].tolist(), groups["size"].tolist(), strict=True)
    return tuple(t_interval(most - mean, std * math.sqrt(1 / n + 1 / count), freedom) for mean, n in others)


def _usable(trials: pd.DataFrame) -> pd.DataFrame:
    return trials[(trials["state"] == "completed") & trials["reused_trial"].isna() & trials["objective"].notna()]


def _problem(rows: pd.DataFrame) -> str | None:
    """Return why the rows can't be fitted, and what to do; None if they can."""
    sizes = sorted(rows["pool_size"].unique())
    if len(sizes) < _MIN_SIZES:
        return (
            f"there are {len(rows)} completed trials with {len(sizes)} pool sizes ({listed(sizes)}), but "
            f"it takes {_MIN_SIZES}. Add some to pool.size in study.space."
        )
    configs = pd.json_normalize([json.loads(text) for text in rows["config_json"]]).astype(str)
    differing = sorted(
        name
        for name in map(str, configs)
        if configs[name].nunique() > 1 and name not in _OF_A_TRIAL and not name.startswith(_ELSEWHERE)
    )
    if differing:
        return f"trials also differ in {listed(differing)}. Choose those of one value, or run the study pool_scaling."
    if len(rows) == len(sizes):
        return (
            "each size has one trial, so the noise is unknown. List matching.seed in study.space, as pool_scaling does."
        )
    return None


def _fit(curve: float, low: float, high: float) -> str:
    return f"{100 * curve:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
