from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dim_ray.reporting.search_figures import pool_figure
from dim_ray.reporting.searches import studies
from dim_ray.store.reader import Reader
from dim_ray.store.writer import Writer
from tests.tuning.test_scaling import flat, power, study


@pytest.mark.parametrize(
    ("curve", "says"), [(power, "64 teachers still pay"), (flat, "More than 1 teacher doesn't pay")]
)
def test_study_of_pool_sizes_and_seeds_says_under_its_curve_where_teachers_stop_paying(
    tmp_path: Path, curve: object, says: str
) -> None:
    writer = Writer(str(tmp_path))
    rows = study(curve, np.random.default_rng(0), std=1e-4)  # type: ignore[arg-type]
    for number, row in enumerate(rows.to_dict("records")):
        writer.append_trial({**row, "number": number, "objective_std": None, "reused_trial": None, "error": None})
    [found] = studies(Reader(str(tmp_path)).trials(), 1)
    figure = pool_figure(found)
    assert figure is not None
    assert says in figure.caption
    assert "to 64 gains" in figure.caption
