"""What matching brought: the control of a study's best generator."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from dim_ray.core.training.ports import SilentReporter
from dim_ray.errors import DivergedError
from dim_ray.pipeline import controls
from dim_ray.pipeline.controls import control_config, has_diverged, measure_control, missing_students
from dim_ray.pipeline.evaluations import plan_evaluations
from dim_ray.pipeline.generators import generator_fingerprint
from dim_ray.pipeline.workspace import Workspace
from dim_ray.reporting.sections import make_report
from dim_ray.store.reader import Reader
from tests.helpers.made_rows import validation
from tests.helpers.small import build_networks, distil, evaluate, make_work, with_matching
from tests.tuning.test_record import PARAMETERS, with_study
from tuning.contenders import compare, controlled
from tuning.control import compare_rows, control_of
from tuning.search.space import configure

OURS, CONTROL = "a" * 16, "b" * 16


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, dict[str, Any]]:
    """A study's workspace with the generator of its best trial, and a part of that one's row."""
    work = with_study(make_work(tmp_path_factory.mktemp("control")), control=True, contender_seeds=2)
    trial = replace(work, config=configure(work.config, PARAMETERS))
    build_networks(trial)
    return work, {"params_json": json.dumps(PARAMETERS), "generator": distil(trial)}


def rows_of(accuracies: dict[str, list[float]], **more: Any) -> pd.DataFrame:
    return pd.DataFrame(
        [
            validation(generator=name, seed=seed, accuracy=accuracy, **more)
            for name, own in accuracies.items()
            for seed, accuracy in enumerate(own)
        ]
    )


def test_control_is_the_same_stage_from_the_same_prior_without_matching(
    distilled: tuple[Workspace, dict[str, Any]],
) -> None:
    work, best = distilled
    config = controlled(work, best)
    assert config is not None
    trial = configure(work.config, PARAMETERS)
    assert config.matching.kind == "none"
    for name in ("epochs", "batch_size", "learning_rate", "seed"):
        assert getattr(config.matching, name) == getattr(trial.matching, name)
    assert (config.prior, config.generator) == (trial.prior, trial.generator)
    card = work.artifacts.read_card("generators", best["generator"])
    assert control_of(card) == generator_fingerprint(replace(work, config=config))
    assert control_of({**card, "prior": "0" * 16}) != control_of(card)
    assert control_of({**card, "training": {"matching": {"of": "another version"}}}) is None


@pytest.mark.parametrize(
    "changes", [{"weight": 9.0}, {"kind": "features"}, {"adversarial_weight": 0.0}, {"teachers_per_step": 2}], ids=str
)
def test_trials_that_differ_only_in_matching_share_a_control(tmp_path: Path, changes: dict[str, Any]) -> None:
    work = make_work(tmp_path)
    other = with_matching(work, **changes)
    assert control_config(other.config) == control_config(work.config)


def test_study_that_matches_nothing_or_wants_no_control_has_none(distilled: tuple[Workspace, dict[str, Any]]) -> None:
    work, best = distilled
    assert controlled(with_matching(work, kind="none"), best) is None
    assert controlled(with_study(work, control=False), best) is None
    assert compare(with_study(work, control=False), best) is None


def test_control_is_measured_once_by_the_students_of_the_best_trial(
    distilled: tuple[Workspace, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    work, best = distilled
    config = controlled(work, best)
    assert config is not None
    missing = missing_students(work, best["generator"], config)
    assert len(missing) == 2 * work.config.study.contender_seeds
    assert compare(work, best) is None
    measure_control(work, best["generator"], config, SilentReporter())
    assert missing_students(work, best["generator"], config) == []
    comparison = compare(work, best)
    assert comparison is not None
    rows = Reader(work.config.storage.root).validations()
    own, other = (
        rows[rows["generator"] == name].sort_values("seed")["accuracy"].to_numpy()
        for name in (best["generator"], comparison.control)
    )
    assert comparison.gain.mean == pytest.approx((own - other).mean())
    monkeypatch.setattr(controls, "distill_generator", lambda *args: pytest.fail("was distilled again"))
    monkeypatch.setattr(controls, "validate_group", lambda *args: pytest.fail("was measured again"))
    measure_control(work, best["generator"], config, SilentReporter())


def test_report_says_what_matching_brought(distilled: tuple[Workspace, dict[str, Any]]) -> None:
    work, best = distilled
    config = controlled(work, best)
    assert config is not None
    measure_control(work, best["generator"], config, SilentReporter())
    evaluate(work, plan_evaluations(work, best["generator"])[0])
    comparison = compare(work, best)
    assert comparison is not None
    report = make_report(Reader(work.config.storage.root), work.artifacts, {})
    assert comparison.text()[1:] in report.answers[0].comparison


def test_control_that_diverges_is_an_outcome_and_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = with_study(make_work(tmp_path), control=True, contender_seeds=2, space={}, num_trials=1)
    build_networks(work)
    generator, config = distil(work), control_config(work.config)

    def diverge(*args: object) -> None:
        raise DivergedError("matching diverged by step 3 of 6.")

    monkeypatch.setattr(controls, "distill_generator", diverge)
    measure_control(work, generator, config, SilentReporter())
    assert has_diverged(replace(work, config=config))
    assert missing_students(work, generator, config) == []
    assert compare(work, {"params_json": "{}", "generator": generator}) is None


def test_generator_that_somebody_deleted_is_not_compared(tmp_path: Path) -> None:
    work = with_study(make_work(tmp_path), control=True)
    assert missing_students(work, OURS, control_config(work.config)) == []


def test_interval_is_that_of_pairs_and_a_gain_within_it_is_not_called_one() -> None:
    ours, control = [0.92, 0.95, 0.93], [0.90, 0.92, 0.92]
    comparison = compare_rows(rows_of({OURS: ours, CONTROL: control}), OURS, CONTROL)
    assert comparison is not None
    gain = [a - b for a, b in zip(ours, control, strict=True)]
    half = stats.sem(gain) * stats.t.ppf(0.975, 2)
    assert (comparison.gain.low, comparison.gain.high) == pytest.approx((0.02 - half, 0.02 + half))
    assert comparison.text() == (
        "it isn't certain that matching brought anything: 2.0 [-0.5, 4.5] points of validation accuracy at IPC 10, n = "
        "3 pairs of students; the control, the same prior and epochs without matching, has 91.3 %"
    )


@pytest.mark.parametrize(
    ("ours", "text"),
    [
        ([0.95, 0.94, 0.93], "matching brought 4.0 [1.5, 6.5] points"),
        ([0.86, 0.87, 0.88], "matching did harm: -3.0 [-5.5, -0.5] points"),
        ([0.91, 0.91, 0.91], "it isn't certain that matching brought anything: 1.0 [1.0, 1.0] points"),
    ],
)
def test_verdict_is_in_words(ours: list[float], text: str) -> None:
    control = [0.9, 0.9, 0.9]
    comparison = compare_rows(rows_of({OURS: ours, CONTROL: control}), OURS, CONTROL)
    assert comparison is not None
    assert comparison.text().startswith(text)


def test_students_on_other_terms_are_no_pair() -> None:
    ours = rows_of({OURS: [0.9, 0.9]})
    for name, value in (("ipc", 1), ("budget_fingerprint", "0" * 16), ("weights", "raw"), ("architecture", "mlp")):
        rows = pd.concat([ours, rows_of({CONTROL: [0.8, 0.8]}, **{name: value})])
        assert compare_rows(rows, OURS, CONTROL) is None
    assert compare_rows(ours, OURS, CONTROL) is None


def test_several_ipcs_are_averaged_for_each_seed() -> None:
    rows = pd.concat(
        [rows_of({OURS: [0.9, 0.8], CONTROL: [0.8, 0.8]}), rows_of({OURS: [0.6, 0.7], CONTROL: [0.5, 0.5]}, ipc=50)]
    )
    comparison = compare_rows(rows, OURS, CONTROL)
    assert comparison is not None
    assert (comparison.num_seeds, comparison.ipcs) == (2, (10, 50))
    assert comparison.gain.mean == pytest.approx(0.1)
