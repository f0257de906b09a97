"""What each worker of a run does, without Ray Train."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray.train
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from dim_ray.core.ports import Collective, SilentReporter, SingleWorker
from dim_ray.distributed import trainer
from dim_ray.distributed.resources import Placement
from dim_ray.errors import DimError, DivergedError
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


DEATH = WorkerHealthCheckFailedError("Worker 1 died.", ray.exceptions.ActorDiedError())


@pytest.mark.parametrize(
    ("failures", "kind", "message"),
    [
        ({0: DEATH, 1: DivergedError("matching diverged")}, DivergedError, "matching diverged"),
        ({1: DEATH}, DimError, r"the process of prior shards died too often .*Worker 1 died"),
        ({0: RuntimeError("Connection closed by peer"), 1: DEATH}, DimError, "the process of prior shards died"),
        ({1: ZeroDivisionError()}, ray.train.TrainingFailedError, "workers failed"),
    ],
)
def test_failure_of_workers_is_told_by_its_kind(
    monkeypatch: pytest.MonkeyPatch, failures: dict[int, Exception], kind: type[Exception], message: str
) -> None:
    def fit(self: object) -> None:
        raise ray.train.WorkerGroupError("workers failed", failures)

    monkeypatch.setattr(trainer.TorchTrainer, "fit", fit)
    monkeypatch.setattr(trainer.TorchTrainer, "__init__", lambda self, *args, **options: None)
    placement = Placement(num_workers=2, cpus_per_worker=1, gpus_per_worker=0.0, max_concurrent=1)
    with pytest.raises(kind, match=message):
        trainer.run_workers(
            trainer.prior_shards, None, placement, name="a", storage_path="b", max_failures=0, board=None
        )
