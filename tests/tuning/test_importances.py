from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tuning.importances import FEWEST_TRIALS, MOST_TRIALS, importances


def _search(num_trials: int) -> tuple[pd.DataFrame, pd.Series]:
    rng = np.random.default_rng(0)
    parameters = pd.DataFrame(
        {
            "generator.capacity": rng.choice([16, 32, 64], num_trials),
            "kind": rng.choice(["logits", "features"], num_trials),
            "matching.weight": 10 ** rng.uniform(-3, 0, num_trials),
            "constant": 1,
        }
    )
    return parameters, 0.5 + parameters["generator.capacity"] / 200 + 0.001 * rng.normal(size=num_trials)


def test_what_decides_is_found_by_both_evaluators() -> None:
    table = importances(*_search(MOST_TRIALS + 50))
    assert set(table["parameter"]) == {"generator.capacity", "kind", "matching.weight"}
    assert table["parameter"].iloc[0] == "generator.capacity"
    assert table["fanova"].iloc[0] > 0.9
    assert table["ped_anova"].idxmax() == 0
    assert table["fanova"].sum() == pytest.approx(1)
    assert table["ped_anova"].sum() == pytest.approx(1)


def test_too_few_or_equal_trials_tell_nothing() -> None:
    parameters, objective = _search(60)
    assert importances(parameters.head(FEWEST_TRIALS - 1), objective).empty
    assert importances(parameters, objective * 0).empty
    assert importances(parameters[["constant"]], objective).empty


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    importances(*_search(20))
    assert capfd.readouterr() == ("", "")


def test_condition_of_one_parameter_takes_nothing_from_the_others() -> None:
    parameters, objective = _search(60)
    bound = parameters.assign(temperature=np.where(parameters["kind"] == "logits", 2.0, np.nan))
    pd.testing.assert_frame_equal(importances(bound, objective), importances(parameters, objective))
