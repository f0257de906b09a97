from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dim_ray.config import OBJECTIVES
from dim_ray.errors import StorageError, UsageError
from dim_ray.store.analysis.pareto import hypervolumes, pareto_set, study_objectives, undominated
from tests.helpers.made_rows import trial

CHOICES = [chosen for size in (1, 2, 3) for chosen in itertools.combinations(OBJECTIVES, size)]
FEW = st.integers(0, 3)  # so that values are often the same


def make_trials(points: list[tuple[float, int, float]], **changes: Any) -> pd.DataFrame:
    return pd.DataFrame(
        [
            trial(
                number=number,
                generator=f"{number:016x}",
                objective=accuracy,
                generator_bytes=size_bytes,
                alone_device_seconds=seconds,
            )
            | changes
            for number, (accuracy, size_bytes, seconds) in enumerate(points)
        ]
    )


def is_beaten(row: dict[Any, Any], others: list[dict[Any, Any]], objectives: tuple[str, ...]) -> bool:
    """Says it in the words of the definition."""

    def cost(row: dict[Any, Any], name: str) -> float:
        column = {"accuracy": "objective", "device_seconds": "alone_device_seconds"}.get(name, name)
        return -float(row[column]) if name == "accuracy" else float(row[column])

    for other in others:
        if all(cost(other, name) <= cost(row, name) for name in objectives) and any(
            cost(other, name) < cost(row, name) for name in objectives
        ):
            return True
    return False


@settings(deadline=None)  # a busy machine
@given(st.lists(st.tuples(FEW, FEW, FEW), min_size=1, max_size=12), st.sampled_from(CHOICES))
def test_set_has_the_trials_that_no_other_one_beats_and_no_others(
    points: list[tuple[int, int, int]], objectives: tuple[str, ...]
) -> None:
    trials = make_trials([(accuracy / 3, size, seconds) for accuracy, size, seconds in points])
    rows = trials.to_dict("records")
    expected = {row["number"] for row in rows if not is_beaten(row, rows, objectives)}
    chosen = pareto_set(trials, objectives)
    assert set(chosen["number"]) == expected
    assert chosen["objective"].is_monotonic_decreasing


@pytest.mark.parametrize("num_coordinates", [1, 2, 3])
def test_undominated_are_the_same_as_by_comparing_all_pairs(num_coordinates: int) -> None:
    points = np.random.default_rng(0).integers(0, 12, (300, num_coordinates)).astype(float)  # so that some are equal
    slow = [not any((other <= own).all() and (other < own).any() for other in points) for own in points]
    assert undominated(points).tolist() == slow


def test_trials_that_did_not_complete_are_not_in_it() -> None:
    trials = make_trials([(0.9, 10, 1.0), (0.8, 20, 2.0)])
    trials.loc[0, "state"] = "diverged"
    assert pareto_set(trials, OBJECTIVES)["number"].tolist() == [1]


def test_generator_of_several_trials_is_there_once() -> None:
    trials = make_trials([(0.5, 10, 1.0)] * 3, generator="aaaa000011112222")
    assert pareto_set(trials.iloc[::-1], OBJECTIVES)["number"].tolist() == [0]


def test_equal_generators_are_all_there() -> None:
    assert pareto_set(make_trials([(0.5, 10, 1.0)] * 3), OBJECTIVES)["number"].tolist() == [0, 1, 2]


def test_trial_of_an_older_version_is_left_out_and_a_table_of_them_is_refused_with_the_way_out() -> None:
    trials = make_trials([(0.9, 10, 1.0), (0.8, 20, 2.0)]).astype({"generator_bytes": "float64"})
    trials.loc[0, "generator_bytes"] = float("nan")
    assert pareto_set(trials, ("accuracy", "generator_bytes"))["number"].tolist() == [1]
    assert pareto_set(trials, ("accuracy",))["number"].tolist() == [0]
    with pytest.raises(StorageError, match=r"of 1 trials, 1 completed, .*generator_bytes.*another name"):
        pareto_set(trials.iloc[:1], ("accuracy", "generator_bytes"))


def test_unknown_objective_and_none_at_all_are_refused() -> None:
    trials = make_trials([(0.9, 10, 1.0)])
    with pytest.raises(UsageError, match=r"'byte' is no objective; .*generator_bytes"):
        pareto_set(trials, ("accuracy", "byte"))
    with pytest.raises(UsageError, match="no objective is given"):
        pareto_set(trials, ())


def test_hypervolume_is_the_share_of_the_space_that_trials_dominate() -> None:
    two = ("accuracy", "generator_bytes")
    trials = make_trials([(0.5, 10, 1.0), (0.9, 30, 1.0), (0.7, 20, 1.0)])
    assert hypervolumes(trials, two, [1, 2, 3]) == pytest.approx([0.0, 0.0, 0.25])
    assert hypervolumes(make_trials([(0.9, 10, 1.0), (0.5, 30, 1.0)]), two, [1, 2]) == pytest.approx([1.0, 1.0])
    three = make_trials([(0.9, 10, 9.0), (0.5, 30, 1.0), (0.7, 20, 5.0)])
    assert hypervolumes(three, OBJECTIVES, [1, 3]) == pytest.approx([0.0, 0.125])
    assert hypervolumes(make_trials([(0.5, 10, 1.0)] * 2), two, [2]) == [1.0]


@pytest.mark.parametrize("seed", range(3))
def test_hypervolume_is_what_optuna_computes(seed: int) -> None:
    optuna = pytest.importorskip("optuna._hypervolume")
    rng = np.random.default_rng(seed)
    values = rng.random((12, 3))
    trials = make_trials([(own[0], own[1], own[2]) for own in values])
    points = values * [-1, 1, 1]
    points = (points - points.min(axis=0)) / np.ptp(points, axis=0)
    expected = optuna.compute_hypervolume(points, np.ones(3))
    assert hypervolumes(trials, OBJECTIVES, [12]) == pytest.approx([expected])


def test_objectives_are_those_of_the_study_and_all_where_it_had_one() -> None:
    asked = json.dumps({"study": {"objectives": ["accuracy", "generator_bytes"]}})
    assert study_objectives(make_trials([(0.9, 10, 1.0)], config_json=asked)) == ("accuracy", "generator_bytes")
    assert study_objectives(make_trials([(0.9, 10, 1.0)])) == OBJECTIVES
    one = json.dumps({"study": {"objectives": ["accuracy"]}})
    assert study_objectives(make_trials([(0.9, 10, 1.0)], config_json=one)) == OBJECTIVES
