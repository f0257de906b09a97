"""Replayed searches on a landscape of a few recorded curves, whose best place is known."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import scipy.stats

from benchmarks.replay import VARIANTS, Landscape, replay, replay_scheduler
from dim_ray.config import StudyConfig

SPACE: dict[str, Any] = {
    "pool.size": [1, 2, 4, 8],
    "matching.weight": {"low": 0.01, "high": 10.0, "log": True},
    "matching.adversarial_weight": {"low": 0.1, "high": 10.0, "log": True},
}
STD = 0.002


def accuracy(parameters: dict[str, Any]) -> float:
    distances = [math.log10(parameters["matching.weight"] / 0.3), math.log2(parameters["pool.size"] / 4) / 3]
    return 0.9 - 0.1 * sum(distance**2 for distance in distances)


@pytest.fixture(scope="module", params=["process", "forest"])
def landscape(request: pytest.FixtureRequest) -> Landscape:
    optuna.logging.disable_default_handler()
    rng = np.random.default_rng(0)
    choices = StudyConfig(space=SPACE).choices
    rows = []
    for number, point in enumerate(scipy.stats.qmc.Sobol(3, rng=0).random(32).tolist()):
        parameters = {choice.field: choice.at(share) for choice, share in zip(choices, point, strict=True)}
        for epoch in (1, 2, 3):
            rows += [
                {
                    "generator": number, **parameters, "epoch": epoch, "student": student,
                    "accuracy": accuracy(parameters) - 0.05 * (3 - epoch) + STD * rng.standard_normal(),
                    "training_seconds": 2.0 * epoch, "student_seconds": 0.5,
                }
                for student in range(4)
            ]  # fmt: skip
    return Landscape(pd.DataFrame(rows), SPACE, request.param)


def regrets(landscape: Landscape, variant: str, *, num_slots: int = 1, num_trials: int = 16) -> list[float]:
    return [
        replay(landscape, VARIANTS[variant], num_trials=num_trials, num_slots=num_slots, seed=seed)[-1][1]
        for seed in range(12)
    ]


@pytest.mark.filterwarnings("ignore")
def test_landscape_is_what_was_recorded(landscape: Landscape) -> None:
    assert landscape.best == pytest.approx(0.9, abs=0.015)
    assert landscape.student_std == pytest.approx(STD, rel=0.3)
    assert (landscape.num_generators, landscape.epochs) == (32, 3)
    assert (landscape.epoch_seconds, landscape.student_seconds) == (2.0, 0.5)
    bad = {"pool.size": 1, "matching.weight": 0.01, "matching.adversarial_weight": 1.0}
    assert landscape.mean(bad) == pytest.approx(accuracy(bad), abs=0.1)
    assert landscape.mean(bad, 1) == pytest.approx(accuracy(bad) - 0.1, abs=0.1)
    error, average = landscape.held_out()
    assert error < 0.7 * average


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_runs_its_trials_side_by_side_and_the_same_ones_again(landscape: Landscape, variant: str) -> None:
    ends = [replay(landscape, VARIANTS[variant], num_trials=8, num_slots=3, seed=4) for _ in range(2)]
    assert ends[0] == ends[1]
    assert len(ends[0]) == 8
    assert all(kept >= best >= -1e-3 for kept, best in ends[0])
    assert [best for _, best in ends[0]] == sorted((best for _, best in ends[0]), reverse=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("landscape", ["process"], indirect=True)
def test_tpe_finds_a_better_place_than_chance(landscape: Landscape) -> None:
    assert statistics.fmean(regrets(landscape, "tpe")) < 0.7 * statistics.fmean(regrets(landscape, "random"))


@pytest.mark.filterwarnings("ignore")
def test_asha_reaches_more_places_in_the_same_device_time_where_epochs_cost_more_than_students(
    landscape: Landscape,
) -> None:
    ends = {
        name: replay_scheduler(landscape, name, budget_seconds=16 * 6.5, num_slots=2, seed=0)
        for name in ("none", "asha")
    }
    assert next(seconds for seconds, _ in ends["none"]) == pytest.approx(2 * 6.5, rel=0.5)
    assert len(ends["asha"]) < len(ends["none"])  # that complete
    for outcomes in ends.values():
        assert [seconds for seconds, _ in outcomes] == sorted(seconds for seconds, _ in outcomes)
