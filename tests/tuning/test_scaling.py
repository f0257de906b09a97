from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dim_ray.errors import UsageError
from tests.helpers.made_rows import trial
from tuning import scaling
from tuning.scaling import PoolScaling, fit_pool_scaling, is_pool_scaling

SIZES = (1, 2, 4, 8, 16, 32, 64)
NUM_STUDIES = 200
STD = 0.01

Curve = Callable[[float], float]


def power(size: float) -> float:
    return 0.95 - 0.2 * size**-0.7


def flat(size: float) -> float:
    return 0.9


def config(size: int, seed: int, **more: Any) -> dict[str, Any]:
    """The parts of a trial's configuration that matter here; `more` is capacity or the size of the search."""
    return {
        "pool": {"size": size, "seed": 0},
        "matching": {"seed": seed, "weight": 0.1},
        "generator": {"capacity": more.get("capacity", 24)},
        "study": {"num_trials": more.get("num_trials", 21)},
        "storage": {"root": more.get("root", "a")},
    }


def row(size: int, accuracy: float, seed: int = 0, *, more: dict[str, Any] | None = None, **changes: Any) -> Any:
    text = json.dumps(config(size, seed, **(more or {})))
    return trial(pool_size=size, objective=accuracy, config_json=text, num_seeds=3, **changes)


def study(curve: Curve, rng: np.random.Generator, *, sizes: Sequence[int] = SIZES, std: float = STD) -> pd.DataFrame:
    """Rows of three seeds of each size, with normal noise."""
    return pd.DataFrame([row(n, curve(n) + std * rng.normal(), seed) for n in sizes for seed in range(3)])


@functools.cache
def fits(curve: Curve) -> list[PoolScaling]:
    """Fits of many studies that differ in their noise alone."""
    rng = np.random.default_rng(1)
    with mock.patch.object(scaling, "_NUM_RESAMPLES", 200):
        return [fit_pool_scaling(study(curve, rng)) for _ in range(NUM_STUDIES)]


def share(claims: Sequence[bool]) -> float:
    return sum(claims) / len(claims)


def test_curve_without_noise_is_found_again() -> None:
    found = fit_pool_scaling(study(power, np.random.default_rng(0), std=1e-6))
    assert (found.sizes, found.num_trials, found.num_seeds) == (SIZES, (3,) * 7, 3)
    assert found.exponent == pytest.approx(0.7, rel=0.04)  # the step of the exponents that are tried
    assert (found.asymptote, found.amplitude) == (pytest.approx(0.95, abs=0.002), pytest.approx(0.2, abs=0.004))
    assert found.curve == pytest.approx([power(size) for size in SIZES], abs=5e-4)
    assert found.means == pytest.approx([power(size) for size in SIZES], abs=1e-5)
    assert found.pays_until == 64


@pytest.mark.parametrize("curve", [power, flat])
def test_intervals_hold_the_truth_as_often_as_they_say(curve: Curve) -> None:
    studies = fits(curve)
    of_curve = [
        low <= curve(size) <= high
        for own in studies
        for size, low, high in zip(own.sizes, own.lower, own.upper, strict=True)
    ]
    of_gains = [
        gain.low <= curve(64) - curve(size) <= gain.high
        for own in studies
        for size, gain in zip(own.sizes[:-1], own.gains, strict=True)
    ]
    assert 0.91 <= share(of_curve) <= 0.98
    assert 0.92 <= share(of_gains) <= 0.98


def test_where_nothing_is_gained_the_smallest_pool_is_enough() -> None:
    studies = fits(flat)
    assert share([own.pays_until == 1 for own in studies]) >= 0.94  # one tail of 95 %


def test_what_pays_is_seen_through_the_noise() -> None:
    studies = fits(power)  # from 4 to 64 it gains 6.5 points, from 32 to 64 0.7
    until = [own.pays_until for own in studies]
    assert min(until) >= 8
    assert share([size == 64 for size in until]) < 0.5


def test_interval_narrows_with_the_noise() -> None:
    wide, narrow = (fit_pool_scaling(study(power, np.random.default_rng(0), std=std)) for std in (0.02, 0.002))
    for size in range(7):
        assert narrow.upper[size] - narrow.lower[size] < 0.3 * (wide.upper[size] - wide.lower[size])


def test_gain_is_the_difference_of_means_with_the_noise_of_all_sizes() -> None:
    rows = study(power, np.random.default_rng(2))
    found = fit_pool_scaling(rows)
    groups = rows.groupby("pool_size")["objective"]
    std = math.sqrt(groups.var().mean())
    margin = stats.t.ppf(0.975, 14) * std * math.sqrt(2 / 3)
    gain = groups.mean()[64] - groups.mean()[8]
    interval = found.gains[SIZES.index(8)]
    assert (interval.mean, interval.low, interval.high) == pytest.approx((gain, gain - margin, gain + margin))


def test_the_same_rows_give_the_same_curve() -> None:
    rows = study(power, np.random.default_rng(0))
    assert fit_pool_scaling(rows) == fit_pool_scaling(rows)


def test_sizes_may_have_different_numbers_of_trials() -> None:
    rows = study(power, np.random.default_rng(0)).drop(index=[0, 1, 5])
    found = fit_pool_scaling(rows)
    assert found.num_trials == (1, 2, 3, 3, 3, 3, 3)
    assert math.isnan(found.stds[0])
    assert "n = 1 or 2 or 3 trials" in found.lines()[0]


def test_trials_that_did_not_end_or_took_over_a_result_do_not_count() -> None:
    rows = study(power, np.random.default_rng(0))
    others = [
        row(1, 0.1, state="stopped"),
        row(1, 0.0, state="diverged"),
        row(1, 0.1, reused_trial=0),
        row(128, 0.1, state="failed"),
    ]
    more = pd.concat([rows, pd.DataFrame(others)], ignore_index=True)
    assert fit_pool_scaling(more) == fit_pool_scaling(rows)


def test_words_say_where_more_teachers_stop_paying() -> None:
    def plateau(size: float) -> float:
        return 0.90 + 0.02 * min(3.0, math.log2(size))

    noise = [0.001, -0.001, 0.0]
    rows = [row(size, plateau(size) + noise[seed], seed) for size in SIZES for seed in range(3)]
    found = fit_pool_scaling(pd.DataFrame(rows))
    assert found.pays_until == 8
    assert found.text == "more than 8 teachers don't pay: from 8 to 64 gains 0.0 [-0.2, 0.2] points"
    assert found.lines()[-1] == found.text
    assert found.lines()[2].split()[:4] == ["1", "90.0", "±", "0.1"]
    assert len(found.lines()) == 2 + len(SIZES) + 2
    level = [row(size, 0.9 + noise[seed], seed) for size in SIZES for seed in range(3)]
    assert fit_pool_scaling(pd.DataFrame(level)).text.startswith(
        "more than 1 teacher doesn't pay: from 1 to 64 gains 0.0 "
    )
    rising = [row(size, 0.8 + 0.02 * math.log2(size) + noise[seed], seed) for size in SIZES for seed in range(3)]
    assert (
        fit_pool_scaling(pd.DataFrame(rising)).text
        == "64 teachers still pay: from 32 to 64 gains 2.0 [1.8, 2.2] points"
    )


def test_seeds_search_and_place_may_differ() -> None:
    rows = [row(n, power(n), seed, more={"num_trials": seed, "root": str(seed)}) for n in SIZES for seed in range(2)]
    assert is_pool_scaling(pd.DataFrame(rows))


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([row(n, 0.9, seed) for n in (1, 2) for seed in range(3)], r"6 completed trials with 2 pool sizes \(1, 2\)"),
        (
            [row(n, 0.9) for n in SIZES],
            "each size has one trial, so the noise is unknown. List matching.seed in study.space",
        ),
        (
            [row(n, 0.9, seed, more={"capacity": 8 * (seed + 1)}) for n in SIZES for seed in range(2)],
            "trials also differ in generator.capacity",
        ),
    ],
)
def test_rows_that_say_nothing_about_pool_size_are_refused(rows: list[Any], problem: str) -> None:
    frame = pd.DataFrame(rows)
    assert not is_pool_scaling(frame)
    with pytest.raises(UsageError, match=problem):
        fit_pool_scaling(frame)


def test_study_without_trials_is_none_of_pool_scaling() -> None:
    assert not is_pool_scaling(pd.DataFrame([row(1, 0.9)]).iloc[:0])
