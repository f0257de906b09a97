from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dim_ray.errors import StorageError
from dim_ray.store.rows import check_row, row_id
from dim_ray.store.schema import (
    EVALUATION_TABLE,
    EVALUATIONS,
    SCHEMA_VERSION,
    TRIAL_TABLE,
    TRIALS,
    VALIDATION_TABLE,
    VALIDATIONS,
)
from tests.helpers.made_rows import evaluation, trial, validation


@pytest.mark.parametrize("schema", [EVALUATIONS, VALIDATIONS, TRIALS])
def test_every_column_says_what_it_means_and_its_unit(schema: pa.Schema) -> None:
    undescribed = [f.name for f in schema if not (f.metadata[b"description"] and f.metadata[b"unit"])]
    assert undescribed == []


def test_ids_of_known_rows_never_change() -> None:
    """Under another id a student would be trained again, and its row be stored twice."""
    rows = ((EVALUATION_TABLE, evaluation()), (VALIDATION_TABLE, validation()), (TRIAL_TABLE, trial()))
    assert [check_row(table, row)["id"] for table, row in rows] == [
        "939475955827e07d",
        "527f07c5cd146c9f",
        "193b4d3079e7b5c3",
    ]


def test_row_id_is_the_same_in_another_process_with_another_hash_seed() -> None:
    command = (
        "from dim_ray.store.rows import row_id; from dim_ray.store.schema import TRIAL_TABLE; "
        "print(row_id(TRIAL_TABLE, {'number': 10, 'study': {'y': 1, 'x': 0.5}}))"
    )
    ids = {
        subprocess.run(
            [sys.executable, "-c", command], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert ids == {row_id(TRIAL_TABLE, {"study": {"x": 0.5, "y": 1}, "number": 10})}


def test_row_without_an_id_gets_one_of_what_it_measured_and_not_of_how_it_went() -> None:
    first = check_row(EVALUATION_TABLE, evaluation())["id"]
    assert check_row(EVALUATION_TABLE, evaluation(accuracy=0.1, host="node-2", wall_seconds=9.0))["id"] == first
    for change in ({"seed": 1}, {"ipc": 50}, {"generator": None}, {"budget_fingerprint": "ee"}, {"code_version": "2"}):
        assert check_row(EVALUATION_TABLE, evaluation(**change))["id"] != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"acuracy": 0.5}, "unknown column 'acuracy'; did you mean 'accuracy'"),
        ({"ipc": "10"}, "evaluations.ipc is '10' (str); allowed: a whole number"),
        ({"ipc": 10.0}, "evaluations.ipc is 10.0 (float)"),
        ({"ipc": 0}, "evaluations.ipc is 0; allowed: 1 or more"),
        ({"ipc": 2**40}, "evaluations.ipc is 1099511627776"),
        ({"seed": True}, "evaluations.seed is True (bool)"),
        ({"accuracy": None}, "evaluations.accuracy is None; this column needs a value"),
        ({"accuracy": 91.5}, "evaluations.accuracy is 91.5; allowed: a fraction in [0, 1] (not a percentage)"),
        ({"accuracy": float("nan")}, "evaluations.accuracy is nan"),
        ({"architecture": 3}, "evaluations.architecture is 3 (int); allowed: a string"),
        ({"protocol": "on_the_flyy"}, "did you mean 'on_the_fly'"),
        ({"dataset": "../../etc"}, "evaluations.dataset is '../../etc'"),
        ({"dataset": ""}, "evaluations.dataset is ''"),
        ({"id": ".hidden"}, "evaluations.id is '.hidden'"),
        ({"schema_version": 9}, f"evaluations.schema_version is 9; this version writes {SCHEMA_VERSION}"),
        ({"created_at": datetime(2026, 1, 1)}, "allowed: a datetime with a time zone"),
        ({"created_at": "2026-01-01"}, "allowed: a datetime with a time zone"),
    ],
)
def test_row_with_a_wrong_value_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(StorageError) as caught:
        check_row(EVALUATION_TABLE, evaluation(**change))
    assert message in str(caught.value)


def test_row_that_lacks_columns_is_refused_with_all_of_their_names() -> None:
    row = evaluation()
    del row["seed"], row["device"]
    with pytest.raises(StorageError, match="lacks seed, device"):
        check_row(EVALUATION_TABLE, row)


def test_trial_in_an_unknown_state_is_refused_with_the_known_ones() -> None:
    with pytest.raises(StorageError, match="Known: completed, diverged, failed, stopped"):
        check_row(TRIAL_TABLE, trial(state="pruned"))


def test_numbers_of_numpy_and_times_of_other_zones_are_taken() -> None:
    zone = datetime(2026, 1, 1, tzinfo=UTC).astimezone()
    row = evaluation(accuracy=np.float32(0.5), seed=np.int64(3), final_loss=float("nan"), created_at=zone)
    checked = check_row(EVALUATION_TABLE, row)
    assert checked["accuracy"] == 0.5
    assert checked["created_at"] - datetime(2026, 1, 1, tzinfo=UTC) == timedelta(0)
