"""How `python -m dim_ray.tune` ends, by what its studies have come to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dim_ray.cli.outcomes import print_outcomes
from dim_ray.config import to_dict
from dim_ray.errors import DimError, DivergedError
from dim_ray.pipeline.workspace import Workspace
from tests.helpers.made_rows import evaluation, trial
from tests.helpers.small import make_work
from tuning.cost import StudyCost
from tuning.study import StudyOutcome

DIVERGED = DivergedError("1 of 3 students diverged and wrote no row (fixed, IPC 1, convnet3, seed 2).")


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return make_work(tmp_path)


def outcome(work: Workspace, **changes: Any) -> StudyOutcome:
    best = trial(config_json=json.dumps(to_dict(work.config)), objective_name="validation accuracy, IPC 2")
    best["params_json"] = json.dumps({"matching.weight": 0.01234, "pool.size": 4})
    rows = [evaluation(seed=0), evaluation(seed=1), evaluation(protocol="fixed", seed=0)]
    values: dict[str, Any] = {
        "best": best,
        "verdict": None,
        "comparison": None,
        "trials": pd.DataFrame([best]),
        "evaluations": pd.DataFrame(rows),
        "cost": StudyCost(trials_seconds=8.0, networks_seconds=4.0, contenders_seconds=0.0, alone_seconds=24.0),
        "num_trials_run": 1,
        "num_evaluations_run": 3,
    }
    return StudyOutcome(**values | changes)


def test_study_ends_with_its_best_trial_its_cost_and_its_table(
    work: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    print_outcomes([work], [outcome(work)], 95.0)
    text = capsys.readouterr().out
    assert "study tiny: 1 completed; this run took 1 min 35 s" in text
    assert "best: trial 0, matching.weight 0.0123, pool.size 4; validation accuracy 88.0 % (IPC 2)" in text
    assert (
        "cost: 12 device seconds: 4 for teachers and priors, 8 for trials, 0 for contenders and control; reuse saved 12"
        in text
    )
    assert "test accuracy in %" in text
    assert "finished" not in text


def test_study_with_nothing_left_to_do_says_so(work: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    print_outcomes([work], [outcome(work, num_trials_run=0, num_evaluations_run=0)], 1.0)
    assert "study tiny is finished; nothing was added. Extend it with --num-trials above 1." in capsys.readouterr().out


def test_study_that_had_no_time_to_begin_is_not_called_finished(
    work: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = pd.DataFrame([trial()]).iloc[:0]
    left = outcome(work, best=None, trials=trials, evaluations=None, num_trials_run=0, num_evaluations_run=0)
    print_outcomes([work], [left], 1.0)
    text = capsys.readouterr().out
    assert "study tiny: no trial yet" in text
    assert "with 3 trials to come" in text
    assert "finished" not in text


def test_students_that_diverged_are_an_error_after_the_table_of_the_others(
    work: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DivergedError, match="1 of 3 students diverged"):
        print_outcomes([work], [outcome(work, diverged=DIVERGED)], 95.0)
    assert "test accuracy in %" in capsys.readouterr().out
    with pytest.raises(DivergedError):
        print_outcomes([work], [outcome(work, evaluations=pd.DataFrame(), diverged=DIVERGED)], 95.0)


def test_study_that_failed_is_an_error_after_the_table_of_the_others(
    work: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DimError, match="1 of 2 studies failed: tiny: no disk"):
        print_outcomes([work, work], [outcome(work), DimError("no disk")], 95.0)
    assert "test accuracy in %" in capsys.readouterr().out
