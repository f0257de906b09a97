"""Tasks on a real Ray of this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from dim_ray.distributed.cluster.joining import cluster
from dim_ray.distributed.cluster.placement import Placement
from dim_ray.distributed.tasks import Task, run_tasks
from dim_ray.errors import DataError, DimError
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress import SilentProgress
from tests.helpers import ray_jobs
from tests.helpers.small import make_config, make_work

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def ignore(share: float, note: str) -> None:
    """Ignore progress."""


@pytest.fixture(scope="module")
def placement(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Placement]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        config = make_config(tmp_path_factory.mktemp("cluster"))
        with cluster(config, SilentProgress()) as placement:
            yield placement
    assert not ray.is_initialized()


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return make_work(tmp_path)


def test_every_job_uses_the_cores_that_it_was_given(placement: Placement, work: Workspace, tmp_path: Path) -> None:
    seen: list[float] = []
    tasks = {f"job {index}": Task(job=ray_jobs.note, argument=f"file-{index}") for index in range(5)}
    run_tasks(work, tasks, placement, on_progress=lambda share, note: seen.append(share))
    assert [(tmp_path / f"file-{index}").read_text() for index in range(5)] == ["1"] * 5
    assert seen == sorted(seen)
    assert seen[-1] == 1


def test_ray_calls_a_task_by_its_jobs_name(placement: Placement, work: Workspace, tmp_path: Path) -> None:
    tasks = {"prior of capacity 4": Task(job=ray_jobs.note_name, argument="file")}
    run_tasks(work, tasks, placement, on_progress=ignore)
    assert (tmp_path / "file").read_text() == "prior of capacity 4"


def test_no_jobs_take_no_time(placement: Placement, work: Workspace) -> None:
    run_tasks(work, {}, placement, on_progress=lambda share, note: pytest.fail("there is none"))


def test_error_for_the_user_comes_back_as_it_was_raised_and_the_other_jobs_are_stopped(
    placement: Placement, work: Workspace, tmp_path: Path
) -> None:
    if placement.max_concurrent < 2:
        pytest.skip("needs two cores")
    tasks = {
        "long": Task(job=ray_jobs.sleep, argument=600.0),
        "broken": Task(job=ray_jobs.wait_then_fail, argument="file.parquet"),
    }
    with pytest.raises(DataError) as failure:
        run_tasks(work, tasks, placement, on_progress=ignore)
    assert type(failure.value) is DataError
    assert str(failure.value) == "row 7 of file.parquet is broken; mend it."
    process = Path("/proc", (tmp_path / "began").read_text())
    until = time.monotonic() + 60.0
    while process.exists():
        assert time.monotonic() < until, "the other job still runs"
        time.sleep(0.1)


def test_defect_keeps_its_traceback(placement: Placement, work: Workspace) -> None:
    with pytest.raises(ZeroDivisionError) as failure:
        run_tasks(work, {"job": Task(job=ray_jobs.break_down, argument="a")}, placement, on_progress=ignore)
    assert "break_down" in str(failure.value)


def test_job_whose_process_dies_is_started_again(placement: Placement, work: Workspace, tmp_path: Path) -> None:
    run_tasks(work, {"job": Task(job=ray_jobs.die_once, argument="file")}, placement, on_progress=ignore)
    assert (tmp_path / "file-died").exists()
    assert (tmp_path / "file").exists()


def test_job_whose_process_dies_every_time_gives_a_readable_error(placement: Placement, work: Workspace) -> None:
    with pytest.raises(DimError, match=r"the process of teacher 3 died too often .*Finished work is kept"):
        run_tasks(work, {"teacher 3": Task(job=ray_jobs.die, argument=None)}, placement, on_progress=ignore)


def test_progress_is_weighted_by_the_cost_of_the_tasks(placement: Placement, work: Workspace) -> None:
    seen: list[float] = []
    tasks = {
        "dear": Task(job=ray_jobs.note, argument="dear", cost=9.0),
        "long": Task(job=ray_jobs.sleep, argument=3.0, cost=1.0),
    }
    run_tasks(work, tasks, placement, on_progress=lambda share, note: seen.append(share))
    assert 0.9 in [pytest.approx(share) for share in seen]  # when the dear one is done
    assert seen[-1] == 1
