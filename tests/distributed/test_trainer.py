"""The jobs of a run's workers, without Ray Train."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import ray.train
from ray.train.torch import TorchConfig
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from dim_ray.core.training.ports import Collective, Reporter, SilentReporter, SingleWorker
from dim_ray.distributed import trainer
from dim_ray.distributed.bridge import BoardReporter
from dim_ray.distributed.cluster.placement import Placement
from dim_ray.errors import DimError, DivergedError
from dim_ray.pipeline.workspace import Workspace
from tests.helpers.local_board import LocalBoard
from tests.helpers.small import make_work


class Worker(SingleWorker):
    """One of several workers."""

    def __init__(self, rank: int, num_workers: int) -> None:
        self.rank = rank
        self.num_workers = num_workers


def silently(job: str) -> Reporter:
    return SilentReporter()


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return make_work(tmp_path)


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr(ray.train, "report", reports.append)
    return reports


GROUPS = {"teacher 0+4": [0, 4], "teacher 1": [1], "teacher 5": [5], "teacher 6": [6]}


@pytest.mark.parametrize(
    ("num_workers", "shares"),
    [(1, [[0, 4, 1, 5, 6]]), (2, [[0, 4, 5], [1, 6]]), (3, [[0, 4, 6], [1], [5]]), (5, [[0, 4], [1], [5], [6], []])],
)
def test_groups_of_teachers_are_dealt_to_workers_in_turn(
    work: Workspace, monkeypatch: pytest.MonkeyPatch, num_workers: int, shares: list[list[int]]
) -> None:
    built: list[int] = []
    monkeypatch.setattr(trainer, "build_teachers", lambda work, numbers, reporter: built.extend(numbers))
    for rank, share in enumerate(shares):
        built.clear()
        board = LocalBoard()

        def report_to(name: str, board: LocalBoard = board) -> BoardReporter:
            return BoardReporter(board, name)

        trainer.teacher_shards(GROUPS, work, report_to, Worker(rank, num_workers))
        assert built == share
        assert board.read.remote() == {name: 1.0 for name, numbers in GROUPS.items() if numbers[0] in share}


def diverge(work: Workspace, reporter: object, collective: Collective, rungs: object = None) -> None:
    raise DivergedError("matching diverged by step 3")


def test_last_validation_of_a_trial_is_left_to_its_driver(
    work: Workspace, monkeypatch: pytest.MonkeyPatch, reports: list[dict[str, Any]]
) -> None:
    def distil(work: Workspace, reporter: Reporter, collective: Collective, rungs: Workspace) -> None:
        for epoch in (1, 2):
            reporter.report(epoch, 2, {"validated_epoch": epoch, "validation_accuracy": 0.5})

    monkeypatch.setattr(trainer, "distill_generator", distil)
    trainer.trial_shards("trial", work, silently, SingleWorker())
    assert reports == [{"epoch": 1, "validation_accuracy": 0.5}]


@pytest.mark.parametrize("job", [functools.partial(trainer.trial_shards, "trial"), trainer.distill_shards])
def test_distillation_that_diverges_is_an_error(
    job: trainer.WorkerJob, work: Workspace, monkeypatch: pytest.MonkeyPatch, reports: list[dict[str, Any]]
) -> None:
    monkeypatch.setattr(trainer, "distill_generator", diverge)
    with pytest.raises(DivergedError):
        job(work, silently, SingleWorker())
    assert reports == []


DEATH = WorkerHealthCheckFailedError("Worker 1 died.", ray.exceptions.ActorDiedError())


@pytest.mark.parametrize(
    ("failures", "kind", "message"),
    [
        ({0: DEATH, 1: DivergedError("matching diverged")}, DivergedError, "matching diverged"),
        ({1: DEATH}, DimError, r"the process of prior died too often .*Worker 1 died"),
        ({0: RuntimeError("Connection closed by peer"), 1: DEATH}, DimError, "the process of prior died"),
        ({1: ZeroDivisionError()}, ray.train.TrainingFailedError, "workers failed"),
    ],
)
def test_failure_of_workers_is_told_by_its_kind(
    work: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    failures: dict[int, Exception],
    kind: type[Exception],
    message: str,
) -> None:
    def fit(self: object) -> None:
        raise ray.train.WorkerGroupError("workers failed", failures)

    def begin(self: object, job: object, *, torch_config: TorchConfig, **options: Any) -> None:
        assert torch_config.timeout_s > 3600  # while worker 0 validates

    monkeypatch.setattr(trainer.TorchTrainer, "fit", fit)
    monkeypatch.setattr(trainer.TorchTrainer, "__init__", begin)
    monkeypatch.setattr(trainer, "is_given_up", lambda *_: True)
    with pytest.raises(kind, match=message):
        run_two_workers(work, monkeypatch)


def test_training_that_lost_a_node_is_begun_again(work: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = [True, False, False]

    def fit(self: object) -> None:
        if not outcomes.pop():
            raise ray.train.WorkerGroupError("workers failed", {1: DEATH})

    monkeypatch.setattr(trainer.TorchTrainer, "fit", fit)
    monkeypatch.setattr(trainer.TorchTrainer, "__init__", lambda *_, **options: None)
    monkeypatch.setattr(trainer, "is_given_up", lambda *_: False)
    run_two_workers(work, monkeypatch)
    assert outcomes == []


def run_two_workers(work: Workspace, patch: pytest.MonkeyPatch) -> None:
    """Trains a prior, without Ray."""
    patch.setattr(ray, "put", lambda value: value)
    patch.setattr(ray, "get", lambda value: value)
    placement = Placement(num_workers=2, cpus_per_worker=1, gpus_per_worker=0.0, max_concurrent=1)
    trainer.run_workers(trainer.prior_shards, work, placement, what="prior", board=LocalBoard())
