"""A storage with a hundred thousand evaluations."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dim_ray.reporting.page import make_page
from dim_ray.reporting.sections import make_report
from dim_ray.store.artifacts import ArtifactStore
from tests.helpers.made_rows import evaluation, trial, validation

_SEEDS = 5


class Rows:
    """Stands for a `Reader`."""

    root = "memory"

    def evaluations(self, **_: Any) -> pd.DataFrame:
        counts = np.arange(100_000)
        rows = pd.DataFrame([evaluation(created_at=datetime(2026, 1, 1, tzinfo=UTC))]).loc[np.zeros(len(counts))]
        rng = np.random.default_rng(0)
        cell = counts // _SEEDS
        return rows.reset_index(drop=True).assign(
            id=counts.astype(str),
            seed=counts % _SEEDS,
            dataset=pd.Series(["a", "b", "c", "d"])[cell % 4].array,
            ipc=pd.Series([1, 10, 50])[cell // 4 % 3].array,
            protocol=pd.Series(["on_the_fly", "fixed"])[cell // 12 % 2].array,
            generator=pd.Series([f"{number:016x}" for number in range(len(cell) // _SEEDS // 24 + 1)])[
                cell // 24
            ].array,
            accuracy=rng.random(len(counts)),
            validation_accuracy=rng.random(len(counts)),
        )

    def validations(self, **_: Any) -> pd.DataFrame:
        return pd.DataFrame([validation()]).iloc[:0]

    def trials(self, **_: Any) -> pd.DataFrame:
        rng = np.random.default_rng(0)
        return pd.DataFrame(
            [
                trial(
                    id=str(number),
                    created_at=datetime(2026, 1, 1, tzinfo=UTC),
                    study=f"study{number % 20}",
                    number=number,
                    pool_size=2 ** (number % 5),
                    state="failed" if number % 7 == 6 else "completed",
                    error=f"error {number}" * 100 if number % 7 == 6 else None,
                    objective=rng.random(),
                    device_seconds=rng.random() + 1,
                    params_json=json.dumps(
                        {"generator.capacity": int(rng.choice([16, 32])), "matching.weight": rng.random()}
                    ),
                )
                for number in range(10_000)
            ]
        )


@pytest.mark.slow
def test_a_hundred_thousand_rows_make_a_page_of_less_than_5_mb_in_less_than_20_seconds(tmp_path: Any) -> None:
    rows: Any = Rows()
    start = time.process_time()  # others may use the machine, too
    report = make_report(rows, ArtifactStore(str(tmp_path)), {})
    page = make_page(report, made_at=datetime(2026, 1, 2, tzinfo=UTC))
    assert report.num_evaluations == 100_000
    assert len(page.html) < 5_000_000
    assert time.process_time() - start < 20
