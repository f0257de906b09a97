"""What each worker of a run does, without Ray Train."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray.train

from dim_ray.core.ports import Collective, SilentReporter, SingleWorker
from dim_ray.distributed import trainer
from dim_ray.errors import DivergedError
from dim_ray.pipeline.workspace import Workspace
from tests.core.tiny import RecordingReporter
from tests.pipeline.small import make_work


class Worker(SingleWorker):
    """One of several, where nobody else says anything."""

    def __init__(self, rank: int, num_workers: int) -> None:
        self.rank = rank
        self.num_workers = num_workers


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return make_work(tmp_path)


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr(ray.train, "report", reports.append)
    return reports


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_workers_share_the_missing_teachers(work: Workspace, monkeypatch: pytest.MonkeyPatch, num_workers: int) -> None:
    built: list[int] = []
    work = replace(work, config=replace(work.config, pool=replace(work.config.pool, size=7)))
    monkeypatch.setattr(trainer, "missing_teachers", lambda work: [0, 1, 4, 5, 6])
    monkeypatch.setattr(trainer, "build_teacher", lambda work, number, reporter: built.append(number))
    for rank in range(num_workers):
        before, reporter = len(built), RecordingReporter()
        trainer.teacher_shards(work, reporter, Worker(rank, num_workers))
        count = len(built) - before
        assert reporter.steps == list(range(1, count + 1))
        assert all(total == count for _, total, _ in reporter.reports)
    assert sorted(built) == [0, 1, 4, 5, 6]


def diverge(work: Workspace, reporter: object, collective: Collective) -> None:
    raise DivergedError("matching diverged by step 3")


def test_end_of_a_trial_is_left_to_its_driver_to_report(
    work: Workspace, monkeypatch: pytest.MonkeyPatch, reports: list[dict[str, Any]]
) -> None:
    def distil(work: Workspace, reporter: Any, collective: Collective) -> None:
        for epoch in (1, 2):
            reporter.report(epoch, 2, {"validation_accuracy": 0.5})

    monkeypatch.setattr(trainer, "distill_generator", distil)
    trainer.trial_shards(work, SilentReporter(), SingleWorker())
    assert reports == [{"epoch": epoch, "validation_accuracy": 0.5} for epoch in trainer.rung_epochs(work.config)[:-1]]


@pytest.mark.parametrize("job", [trainer.trial_shards, trainer.distill_shards])
def test_distillation_that_diverges_is_an_error(
    job: trainer.WorkerJob, work: Workspace, monkeypatch: pytest.MonkeyPatch, reports: list[dict[str, Any]]
) -> None:
    monkeypatch.setattr(trainer, "distill_generator", diverge)
    with pytest.raises(DivergedError):
        job(work, SilentReporter(), SingleWorker())
    assert reports == []
