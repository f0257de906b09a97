"""What a trial tells Ray Tune, without Ray Tune."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray import tune

from dim_ray.distributed.cluster.placement import Placement
from dim_ray.errors import DivergedError
from dim_ray.pipeline.generators import generator_fingerprint
from dim_ray.pipeline.workspace import Workspace
from tests.helpers.local_board import LocalBoard
from tests.helpers.small import build_networks, distil, make_work
from tests.helpers.tiny import GENERATOR
from tuning import trial
from tuning.search.space import configure
from tuning.trial import run_trial

PARAMETERS = {
    "pool.size": 2,
    "generator.capacity": GENERATOR.capacity,
    "matching.weight": 0.25,
    "matching.adversarial_weight": 1.5,
}
ONE, TWO = (Placement(num_workers=count, cpus_per_worker=1, gpus_per_worker=0.0, max_concurrent=1) for count in (1, 2))


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    work = make_work(tmp_path)
    build_networks(work)
    return work


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What Ray Tune is told; the threads of torch stay as they are."""
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr(tune, "report", reports.append)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(trial, "_begin", lambda *_: None)
    monkeypatch.setattr(trial, "TuneReportCallback", lambda: None)
    return reports


def run(work: Workspace, placement: Placement) -> None:
    run_trial(PARAMETERS, work=work, placement=placement, board=LocalBoard())


def chosen(work: Workspace) -> Workspace:
    return replace(work, config=configure(work.config, PARAMETERS))


def test_trial_of_one_worker_reports_its_rungs_and_leaves_its_generator(
    work: Workspace, reports: list[dict[str, Any]]
) -> None:
    config = replace(work.config, matching=replace(work.config.matching, epochs=4))
    work = replace(work, config=config)
    run(work, ONE)
    assert [report["epoch"] for report in reports] == [1, 3, 4]
    card = work.artifacts.read_card("generators", generator_fingerprint(chosen(work)))
    assert reports[-1]["validation_accuracy"] == card["validation"]["validation_accuracy"]
    assert card["training"]["matching"]["weight"] == 0.25


def test_trial_of_several_workers_reports_its_end_after_they_are_done(
    work: Workspace, reports: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_workers(job: object, shared: Workspace, placement: Placement, **options: Any) -> None:
        assert placement == TWO
        distil(shared)

    monkeypatch.setattr(trial, "run_workers", run_workers)
    run(work, TWO)
    card = work.artifacts.read_card("generators", generator_fingerprint(chosen(work)))
    accuracy = card["validation"]["validation_accuracy"]
    assert reports == [{"epoch": 2, "validation_accuracy": accuracy, "wall_seconds": card["wall_seconds"]}]


@pytest.mark.parametrize("placement", [ONE, TWO], ids=["one worker", "two workers"])
def test_generator_that_is_there_is_measured_as_this_study_measures(
    work: Workspace, reports: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, placement: Placement
) -> None:
    distil(chosen(work))
    monkeypatch.setattr(trial, "run_workers", lambda *args, **options: pytest.fail("workers were started"))
    measured = {"validation_accuracy": 0.125}
    monkeypatch.setattr("dim_ray.pipeline.validation.validate", lambda work, generator, reporter: measured)
    monkeypatch.setattr(trial, "validate_elsewhere", lambda work, generator, placement: measured)
    run(work, placement)
    assert reports == [{"epoch": 2, "validation_accuracy": 0.125}]  # and not what its card says


@pytest.mark.parametrize("gpus", [0.0, 1.0])
def test_trial_takes_no_gpu_that_it_does_not_hold(
    work: Workspace, reports: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, gpus: float
) -> None:
    asked: list[float] = []

    def on_device(work: Workspace, num_threads: int, *, gpus: float) -> Workspace:
        asked.append(gpus)
        return work

    distil(chosen(work))
    monkeypatch.setattr(trial, "on_device", on_device)
    run(work, Placement(num_workers=1, cpus_per_worker=3, gpus_per_worker=gpus, max_concurrent=1))
    assert asked == [gpus]
    assert len(reports) == 1


@pytest.mark.parametrize(
    ("placement", "what"), [(ONE, "distill_generator"), (TWO, "run_workers")], ids=["one worker", "two workers"]
)
def test_trial_that_diverges_is_reported_with_a_finite_number(
    work: Workspace, reports: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, placement: Placement, what: str
) -> None:
    def diverge(*args: object, **options: object) -> None:
        raise DivergedError("matching diverged by step 3")

    monkeypatch.setattr(trial, what, diverge)
    run(work, placement)
    assert reports == [{"epoch": 2, "validation_accuracy": 0.0, "diverged": "matching diverged by step 3"}]


def test_progress_of_a_trial_is_posted_under_its_id(
    work: Workspace, reports: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "get_context", lambda: SimpleNamespace(get_trial_id=lambda: "0123_00001"))
    board = LocalBoard()
    run_trial(PARAMETERS, work=work, placement=ONE, board=board)
    assert board.read.remote() == {"0123_00001": 1.0}
    assert [report["epoch"] for report in reports] == [1, 2]
