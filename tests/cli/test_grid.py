"""Students of a grid, here and over a cluster: what is trained at once, and what the progress counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dim_ray.cli.grid import run_missing
from dim_ray.core.training import ports
from dim_ray.core.training.ports import SilentReporter
from dim_ray.distributed import measure
from dim_ray.distributed.cluster.placement import Placement
from dim_ray.distributed.tasks import Task
from dim_ray.errors import DivergedError
from dim_ray.pipeline import evaluations, students
from dim_ray.pipeline.evaluations import plan_evaluations
from dim_ray.pipeline.rows import missing_rows
from dim_ray.pipeline.students import StudentPlan
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress import SilentProgress
from dim_ray.store.schema import EVALUATION_TABLE
from tests.helpers.small import evaluate, make_work


class Counting(SilentProgress):
    """Keeps what it is told of the stage."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0
        self.seen: list[float] = []

    def start(self, name: str, total: float, unit: str) -> None:
        assert unit == "students"
        self.total = total

    def advance(self, done: float, note: str = "") -> None:
        self.seen.append(done)


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    made = make_work(tmp_path)
    evaluation = replace(
        made.config.evaluation, protocols=("real_fixed",), num_seeds=3, images_per_class=(1, 2), students_at_once=2
    )
    return replace(made, config=replace(made.config, evaluation=evaluation))


@pytest.fixture
def planned(work: Workspace) -> list[StudentPlan]:
    return plan_evaluations(work, "f" * 16)


def test_progress_of_students_at_once_here_counts_students(work: Workspace, planned: list[StudentPlan]) -> None:
    progress = Counting()
    assert run_missing(work, planned, progress, is_local=True) == 6
    assert (progress.total, progress.seen) == (6, [0, 2, 3, 5, 6])
    assert missing_rows(work, EVALUATION_TABLE, planned) == []


@pytest.fixture
def tasks_seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Task]]:
    """Runs the tasks of a cluster here, and returns where they are noted."""
    seen: list[dict[str, Task]] = []

    def run_tasks(
        work: Workspace, tasks: dict[str, Task], placement: Placement, *, on_progress: Callable[[float, str], None]
    ) -> None:
        seen.append(tasks)
        for share in (0.0, 0.5, 1.0):
            on_progress(share, "")
        for task in tasks.values():
            task.job(work, task.argument, SilentReporter())

    monkeypatch.setattr(measure, "run_tasks", run_tasks)
    return seen


PLACEMENT = Placement(num_workers=1, cpus_per_worker=1, gpus_per_worker=0.0, max_concurrent=2)


def test_progress_of_students_at_once_over_a_cluster_counts_students(
    work: Workspace, planned: list[StudentPlan], tasks_seen: list[dict[str, Task]]
) -> None:
    evaluate(work, planned[0])
    progress = Counting()
    assert measure.run_evaluations(work, planned, PLACEMENT, progress) == 5
    [tasks] = tasks_seen
    assert [task.argument for task in tasks.values()] == [planned[1:3], planned[3:5], planned[5:]]
    assert [task.cost for task in tasks.values()] == [2, 2, 1]
    assert (progress.total, progress.seen) == (6, [1, 3.5, 6])


@pytest.mark.parametrize("is_local", [True, False])
def test_student_that_diverges_is_told_when_all_others_have_their_rows(
    work: Workspace,
    planned: list[StudentPlan],
    tasks_seen: list[dict[str, Task]],
    monkeypatch: pytest.MonkeyPatch,
    is_local: bool,
) -> None:
    def train_group(work: Workspace, plans: Sequence[StudentPlan], *arguments: Any, **options: Any) -> list[Any]:
        results = students.train_group(work, plans, *arguments, **options)
        return [
            DivergedError("the loss is nan.") if plan == planned[0] else result
            for plan, result in zip(plans, results, strict=True)
        ]

    def run() -> int:
        if is_local:
            return run_missing(work, planned, progress, is_local=True)
        return measure.run_evaluations(work, planned, PLACEMENT, progress)

    monkeypatch.setattr(evaluations, "train_group", train_group)
    progress = Counting()
    for num_trained in (6, 1):  # the same command once more tries only that student
        with pytest.raises(DivergedError, match=r"^1 of 6 students diverged.*\(real_fixed, IPC 2, .*, seed 0\)"):
            run()
        assert missing_rows(work, EVALUATION_TABLE, planned) == [planned[0]]
        assert progress.seen[-1] == (num_trained if is_local else 6)


@pytest.mark.parametrize("students_at_once", [1, 2])
def test_progress_within_a_student_is_shown(
    students_at_once: int, work: Workspace, planned: list[StudentPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "_SECONDS_BETWEEN_REPORTS", 0.0)
    evaluation = replace(work.config.evaluation, students_at_once=students_at_once)
    progress = Counting()
    run_missing(replace(work, config=replace(work.config, evaluation=evaluation)), planned, progress, is_local=True)
    assert progress.seen == sorted(progress.seen)
    assert any(done != int(done) for done in progress.seen)
    assert progress.seen[-1] == progress.total == 6
