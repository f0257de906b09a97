"""When a generator is measured while it is distilled, and what is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dim_ray.config import StudyConfig, Weights
from dim_ray.core.training import ports
from dim_ray.core.training.ports import SingleWorker
from dim_ray.errors import DivergedError
from dim_ray.pipeline import validation
from dim_ray.pipeline.generators import distill_generator, rung_epochs
from dim_ray.pipeline.validation import at_rungs
from dim_ray.pipeline.workspace import Workspace
from tests.helpers.small import distil, make_config, make_work, undistilled, with_matching
from tests.helpers.tiny import OneOfSeveral, RecordingReporter


def test_validation_is_measured_at_the_rungs_alone(built: Workspace) -> None:
    work = with_matching(built, epochs=4)
    work = replace(work, config=replace(work.config, study=replace(work.config.study, grace_epochs=1)))
    reporter = RecordingReporter()
    distil(work, reporter)
    measured = [step for step, _, metrics in reporter.reports if "validation_accuracy" in metrics]
    assert measured == [1, 3, 4]
    assert reporter.steps == [1, 2, 3, 4]


def test_generator_is_measured_at_its_end_alone_where_nobody_asks_for_more(built: Workspace) -> None:
    work = with_matching(undistilled(built), epochs=3)
    reporter = RecordingReporter()
    distill_generator(work, reporter, SingleWorker())
    assert [step for step, _, metrics in reporter.reports if "validation_accuracy" in metrics] == [3]


def test_student_that_diverges_ends_the_distillation_on_every_worker(
    built: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*args: object) -> dict[str, float]:
        raise DivergedError("the student's loss is nan")

    monkeypatch.setattr(validation, "validate", diverge)
    with pytest.raises(DivergedError, match="loss is nan"):
        distil(undistilled(built))
    with pytest.raises(DivergedError, match="worker 0"):  # it measures nothing itself
        distill_generator(built, RecordingReporter(), OneOfSeveral(1, 2, flagged=lambda call: True))


@pytest.mark.parametrize(
    ("epochs", "grace", "factor", "expected"),
    [
        (6, 2, 3, [2, 6]),
        (100, 1, 3, [1, 3, 9, 27, 81, 100]),
        (9, 1, 3, [1, 3, 9]),
        (4, 4, 2, [4]),
        (1, 1, 4, [1]),
    ],
)
def test_rungs_are_multiplied_until_the_last_epoch(
    tmp_path: Path, epochs: int, grace: int, factor: int, expected: list[int]
) -> None:
    config = make_config(tmp_path)
    config = replace(
        config,
        matching=replace(config.matching, epochs=epochs),
        study=replace(config.study, grace_epochs=grace, reduction_factor=factor),
    )
    assert rung_epochs(config, 24) == expected


def test_progress_of_students_that_training_waits_for_is_shown_beside_the_epoch(
    built: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "_SECONDS_BETWEEN_REPORTS", 0.0)
    work = with_matching(built, epochs=3)
    reporter = RecordingReporter()
    distil(work, reporter)
    epochs = work.config.matching.epochs
    beside = [(done, total) for done, total, note in reporter.advances if note.startswith("validation ")]
    assert {*beside} == {(epoch, epochs) for epoch in rung_epochs(work.config, len(work.dataset.train))}
    assert len(beside) > len({*beside})


@pytest.mark.parametrize(
    ("decay", "weights", "batch_size", "grace", "first"),
    [
        (0.0, "average", 10, 2, 2),
        (0.99, "average", 10, 1, 30),  # 299 steps
        (0.99, "average", 10, 40, 40),
        (0.99, "average", 20, 1, 60),
        (0.99, "raw", 10, 1, 1),
        (0.5, "average", 10, 1, 1),
        (0.999, "average", 10, 1, 300),
    ],
)
def test_rungs_begin_where_the_average_has_forgotten_its_prior(
    tmp_path: Path, decay: float, weights: Weights, batch_size: int, grace: int, first: int
) -> None:
    config = make_config(tmp_path).with_fields(
        {
            "generator.ema_decay": decay,
            "evaluation.weights": weights,
            "matching.batch_size": batch_size,
            "matching.epochs": 1000,
            "study.grace_epochs": grace,
        }
    )
    assert rung_epochs(config, 100)[0] == first
    assert weights == "raw" or decay ** (first * (100 // batch_size)) < 0.05 or decay == 0


@pytest.mark.parametrize(
    ("space", "first"),
    [
        ({"generator.ema_decay": [0.5, 0.99]}, 30),
        ({"generator.ema_decay": [0.0, 0.5]}, 1),
        ({"matching.batch_size": [10, 50]}, 150),
    ],
)
def test_rungs_of_a_search_are_those_of_its_slowest_average(tmp_path: Path, space: dict[str, Any], first: int) -> None:
    config = make_config(tmp_path, study=StudyConfig(space=space)).with_fields(
        {"generator.ema_decay": 0.99, "matching.batch_size": 10, "matching.epochs": 1000}
    )
    assert rung_epochs(config, 100)[0] == first
    [(field, values)] = space.items()
    for value in values:
        assert rung_epochs(config.with_fields({field: value}), 100) == rung_epochs(config, 100)


def test_rungs_are_judged_by_three_students_and_the_end_by_those_of_the_search(tmp_path: Path) -> None:
    work = make_work(tmp_path)
    assert at_rungs(work).config.study.selection_seeds == 3
    for changes, seeds in (({"selection_seeds": 5}, 5), ({"scheduler": "none"}, 1)):
        study = replace(work.config.study, **changes)  # type: ignore[arg-type]
        assert at_rungs(replace(work, config=replace(work.config, study=study))).config.study.selection_seeds == seeds
