from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dim_ray.reporting.cells import best_generators, curve, leaders, measured_cells, whole_set
from dim_ray.store.reader import Reader
from dim_ray.store.writer import Writer
from tests.helpers.made_rows import evaluation, real_evaluation

GOOD, BAD = "feed000011112222", "beef000011112222"


def rows_of(folder: Path, rows: list[dict[str, Any]]) -> pd.DataFrame:
    Writer(str(folder)).append_evaluations(rows)
    return Reader(str(folder)).evaluations()


def test_real_images_stand_only_beside_generated_ones_of_the_same_budget(tmp_path: Path) -> None:
    rows = [evaluation(seed=seed, accuracy=0.9, best_test_accuracy=0.93) for seed in range(2)]
    real = [real_evaluation(protocol="real_on_the_fly", seed=seed, accuracy=a) for seed, a in enumerate([0.94, 0.96])]
    other = real_evaluation(protocol="real_on_the_fly", budget_fingerprint="eeee000011112222", accuracy=0.5)
    cells = measured_cells(rows_of(tmp_path, [*rows, *real, other]))
    cell = cells[cells["protocol"] == "on_the_fly"].iloc[0]
    assert cell["real_mean"] == pytest.approx(0.95)
    assert cell["real_std"] == pytest.approx(0.0141, abs=1e-3)
    assert (cell["n"], cell["real_n"]) == (2, 2)
    assert cell["best_test_mean"] == pytest.approx(0.93)
    assert len(cells) == 3


def test_fixed_is_compared_with_a_fixed_subset_and_never_with_images_on_the_fly(tmp_path: Path) -> None:
    rows = [evaluation(protocol="fixed"), real_evaluation(protocol="real_on_the_fly", accuracy=0.99)]
    cells = measured_cells(rows_of(tmp_path, rows))
    assert cells["real_mean"].isna().all()


def test_the_best_is_chosen_by_validation_and_on_the_fly_where_that_was_measured(tmp_path: Path) -> None:
    rows = [
        evaluation(generator=GOOD, validation_accuracy=0.95, accuracy=0.80),
        evaluation(generator=BAD, validation_accuracy=0.85, accuracy=0.99),
        evaluation(generator=BAD, validation_accuracy=0.99, protocol="fixed"),
        evaluation(dataset="mnist", generator=BAD, protocol="fixed", ipc=7),
        evaluation(dataset="svhn", generator=BAD, quirks="train_mode"),
    ]
    digits, mnist = best_generators(rows_of(tmp_path, rows))
    assert (digits.dataset, digits.generator, digits.protocol, digits.num_compared) == ("digits", GOOD, "on_the_fly", 2)
    assert (mnist.dataset, mnist.generator, mnist.protocol, mnist.ipc) == ("mnist", BAD, "fixed", 7)


def test_the_curve_has_each_ipc_once_at_a_budget_that_real_images_had_too(tmp_path: Path) -> None:
    long = {"budget_fingerprint": "eeee000011112222", "optimiser_steps": 9000}
    other = {"budget_fingerprint": "abcd000011112222", "optimiser_steps": 10}
    rows = [
        evaluation(ipc=1, accuracy=0.7),
        evaluation(ipc=10, accuracy=0.8),
        evaluation(ipc=20, accuracy=0.85, **long),
        evaluation(ipc=20, accuracy=0.82, **other),
        evaluation(ipc=20, accuracy=0.81, budget_fingerprint="ffff000011112222"),
        evaluation(ipc=50, accuracy=0.9, quirks="train_mode"),
        real_evaluation(ipc=20, protocol="real_on_the_fly", **other),
        real_evaluation(ipc=100, protocol="real_full", accuracy=0.97),
        real_evaluation(ipc=100, protocol="real_full", accuracy=0.99, **long),
    ]
    evaluations = rows_of(tmp_path, rows)
    cells, best = measured_cells(evaluations), best_generators(evaluations)[0]
    points = curve(cells, best, "on_the_fly")
    assert list(points["ipc"]) == [1, 10, 20]
    assert list(points["mean"]) == [0.7, 0.8, 0.82]
    whole = whole_set(cells, best)
    assert whole is not None
    assert whole["mean"] == 0.99


def test_the_curve_shows_the_budget_that_the_best_was_chosen_by(tmp_path: Path) -> None:
    long = {"budget_fingerprint": "eeee000011112222", "optimiser_steps": 9000}
    rows = [
        evaluation(generator=GOOD, accuracy=0.8),
        evaluation(generator=BAD, validation_accuracy=0.1),
        evaluation(generator=GOOD, accuracy=0.85, **long),
        real_evaluation(protocol="real_on_the_fly", **long),
    ]
    evaluations = rows_of(tmp_path, rows)
    best = best_generators(evaluations)[0]
    assert (best.generator, best.num_compared) == (GOOD, 2)
    assert list(curve(measured_cells(evaluations), best, "on_the_fly")["mean"]) == [0.8]


def test_leaders_are_the_best_of_each_group_and_every_group_has_one(tmp_path: Path) -> None:
    rows = [
        evaluation(generator=f"{number:016x}", ipc=ipc, validation_accuracy=0.5 + number / 100)
        for number in range(5)
        for ipc in (1, 10)
    ]
    cells = measured_cells(rows_of(tmp_path, rows))
    shown, num_all = leaders(cells, "on_the_fly", most=4)
    assert num_all == 10
    assert list(shown["ipc"]) == [1, 1, 10, 10]
    assert list(shown["validation_mean"]) == [0.54, 0.53, 0.54, 0.53]
