from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dim_ray.config import Config, DataConfig, to_dict
from dim_ray.reporting.searches import datasets_of, failures, pool_scaling, studies, thinned
from dim_ray.store.reader import Reader
from dim_ray.store.writer import Writer
from tests.helpers.made_rows import trial


def rows_of(folder: Path, rows: list[dict[str, Any]]) -> pd.DataFrame:
    writer = Writer(str(folder))
    for row in rows:
        writer.append_trial(row)
    return Reader(str(folder)).trials()


def test_a_study_has_what_was_measured_and_the_parameters_that_differ(tmp_path: Path) -> None:
    chosen = [
        {"generator.capacity": 16, "matching.kind": "logits", "pool.size": 4},
        {"generator.capacity": 24, "matching.kind": "features", "pool.size": 4},
    ]
    rows = [trial(number=number, params_json=json.dumps(params)) for number, params in enumerate(chosen)]
    rows += [
        trial(number=2, state="failed", objective=None),
        trial(number=3, reused_trial=0),
        trial(number=4, state="stopped", params_json='{"generator.capacity": 99, "pool.size": 1}'),
        trial(number=5, state="diverged", objective=0.0),
        trial(study="other", number=0),
    ]
    first, other = studies(rows_of(tmp_path, rows), 5)
    assert (first.name, other.name) == ("digits-small", "other")
    assert list(first.trials["number"]) == [0, 1]
    assert list(first.parameters) == ["generator.capacity", "matching.kind"]
    assert first.objective == "validation accuracy"
    assert list(other.parameters) == []


def test_pool_scaling_is_of_completed_trials(tmp_path: Path) -> None:
    rows = [
        trial(number=0, pool_size=1, objective=0.8),
        trial(number=1, pool_size=1, objective=0.9),
        trial(number=2, pool_size=4, objective=0.95),
        trial(number=3, pool_size=4, objective=0.1, state="stopped"),
    ]
    scaling = pool_scaling(rows_of(tmp_path, rows))
    assert list(scaling["pool_size"]) == [1, 4]
    assert list(scaling["mean"]) == pytest.approx([0.85, 0.95])
    assert list(scaling["count"]) == [2, 1]


def test_failed_and_diverged_trials_come_newest_first(tmp_path: Path) -> None:
    states = ("failed", "completed", "diverged", "stopped")
    rows = rows_of(tmp_path, [trial(number=number, state=state) for number, state in enumerate(states)])
    assert list(failures(rows)["number"]) == [2, 0]


def test_a_thinned_table_keeps_the_best_and_some_of_all_others() -> None:
    rows = pd.DataFrame({"objective": np.arange(1000) / 1000})
    thin = thinned(rows, 100, "objective")
    assert len(thin) == 100
    assert list(thin["objective"].tail(50)) == list(rows["objective"].tail(50))
    assert thin["objective"].min() == 0
    assert thinned(rows, 1000, "objective") is rows


def test_the_data_set_of_a_trial_is_its_configurations_and_nothing_where_that_is_unknown(tmp_path: Path) -> None:
    config = json.dumps(to_dict(Config(data=DataConfig(dataset="mnist"))))
    rows = [trial(config_json=config), trial(study="old", config_json='{"data": {"gone": 1}}')]
    names = datasets_of(rows_of(tmp_path, rows))
    assert sorted(names) == ["", "mnist"]
