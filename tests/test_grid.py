"""Students of a grid, here and over a cluster: what is trained at once, and what the progress counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dim_ray.distributed import build
from dim_ray.distributed.resources import Placement
from dim_ray.distributed.tasks import Task
from dim_ray.grid import run_missing
from dim_ray.pipeline.evaluations import evaluate, plan_evaluations
from dim_ray.pipeline.student_rows import missing_rows
from dim_ray.pipeline.students import Evaluation
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress import SilentProgress
from dim_ray.store.schema import EVALUATION_TABLE
from tests.pipeline.small import make_work


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
def planned(work: Workspace) -> list[Evaluation]:
    return plan_evaluations(work, "f" * 16)


def test_progress_of_students_at_once_here_counts_students(work: Workspace, planned: list[Evaluation]) -> None:
    progress = Counting()
    assert run_missing(work, planned, progress, is_local=True) == 6
    assert (progress.total, progress.seen) == (6, [0, 2, 3, 5, 6])
    assert missing_rows(work, EVALUATION_TABLE, planned) == []


def test_progress_of_students_at_once_over_a_cluster_counts_students(
    work: Workspace, planned: list[Evaluation], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(work, planned[0])
    seen: list[dict[str, Task]] = []

    def run_tasks(
        _: Any, tasks: dict[str, Task], placement: Placement, *, on_progress: Callable[[float, str], None]
    ) -> None:
        seen.append(tasks)
        for share in (0.0, 0.5, 1.0):
            on_progress(share, "")

    monkeypatch.setattr(build, "run_tasks", run_tasks)
    progress = Counting()
    placement = Placement(num_workers=1, cpus_per_worker=1, gpus_per_worker=0.0, max_concurrent=2)
    assert build.run_evaluations(work, planned, placement, progress) == 5
    [tasks] = seen
    assert [task.argument for task in tasks.values()] == [planned[1:3], planned[3:5], planned[5:]]
    assert [task.cost for task in tasks.values()] == [2, 2, 1]
    assert (progress.total, progress.seen) == (6, [1, 3.5, 6])
