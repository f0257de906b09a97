"""Tasks on a real Ray of this machine."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from dim_ray.distributed.cluster import joining
from dim_ray.distributed.cluster.joining import cluster
from dim_ray.distributed.cluster.own_ray import start_own_ray
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
def two_gpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Placement]:
    """Ray on this machine, told of two cores and two GPUs, of which PyTorch sees none."""

    def start(options: Mapping[str, Any], folder: Path, **more: Any) -> None:
        start_own_ray({**options, "num_cpus": 2, "num_gpus": 2}, folder, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setattr(joining, "start_own_ray", start)
        config = make_config(tmp_path_factory.mktemp("cluster"))
        with cluster(config, SilentProgress()) as placement:
            yield placement
    assert not ray.is_initialized()


@pytest.fixture(params=[0.0, 1.0], ids=["CPU", "GPU"])
def placement(request: pytest.FixtureRequest, two_gpus: Placement) -> Placement:
    return replace(two_gpus, gpus_per_worker=request.param)


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
    tasks = {
        "long": Task(job=ray_jobs.sleep, argument=600.0),
        "broken": Task(job=ray_jobs.wait_then_fail, argument="file.parquet"),
    }
    with pytest.raises(DataError) as failure:
        run_tasks(work, tasks, placement, on_progress=ignore)
    assert type(failure.value) is DataError
    assert str(failure.value) == "row 7 of file.parquet is broken; mend it."
    wait_for_end(tmp_path)


def test_interrupted_driver_stops_the_jobs(placement: Placement, work: Workspace, tmp_path: Path) -> None:
    def interrupt() -> None:
        while not (tmp_path / "began").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run_tasks(work, {"long": Task(job=ray_jobs.sleep, argument=600.0)}, placement, on_progress=ignore)
    wait_for_end(tmp_path)


def wait_for_end(folder: Path) -> None:
    """Wait until the process of `ray_jobs.sleep` has ended."""
    process = Path("/proc", (folder / "began").read_text())
    until = time.monotonic() + 60.0
    while process.exists():
        assert time.monotonic() < until, "the other job still runs"
        time.sleep(0.1)


def test_defect_keeps_its_traceback(placement: Placement, work: Workspace) -> None:
    with pytest.raises(ZeroDivisionError) as failure:
        run_tasks(work, {"job": Task(job=ray_jobs.break_down, argument="a")}, placement, on_progress=ignore)
    assert "break_down" in str(failure.value)
    wait_for_room()


@pytest.mark.parametrize("num_deaths", [1, 2])
def test_job_whose_process_is_killed_is_done_once_more(
    placement: Placement, work: Workspace, tmp_path: Path, num_deaths: int
) -> None:
    tasks = {f"job {index}": Task(job=ray_jobs.note, argument=f"file-{index}") for index in range(3)}
    tasks["dies"] = Task(job=ray_jobs.die_first, argument=("file", num_deaths))
    run_tasks(work, tasks, placement, on_progress=ignore)
    assert len([*tmp_path.glob("file-died-*")]) == num_deaths
    assert {path.name for path in tmp_path.glob("file*") if "died" not in path.name} == {
        "file", "file-0", "file-1", "file-2"
    }  # fmt: skip


def test_slot_without_work_leaves_its_room_to_others(placement: Placement, work: Workspace) -> None:
    tasks = {f"job {cpus}": Task(job=ray_jobs.wait_for_room, argument=float(cpus)) for cpus in (1, 0)}
    run_tasks(work, tasks, placement, on_progress=ignore)
    wait_for_room()


def wait_for_room() -> None:
    """Wait until all of Ray's resources are free."""
    until = time.monotonic() + 60.0
    while any(ray.available_resources().get(name, 0.0) < 2 for name in ("CPU", "GPU")):
        assert time.monotonic() < until, "somebody still holds them"
        time.sleep(0.1)


@pytest.mark.parametrize("max_concurrent", [1, 5])
def test_all_room_is_used_if_there_is_more_or_less_than_expected(
    placement: Placement, work: Workspace, tmp_path: Path, max_concurrent: int
) -> None:
    tasks = {f"job {index}": Task(job=ray_jobs.meet, argument=(f"file-{index}", 2)) for index in range(6)}
    run_tasks(work, tasks, replace(placement, max_concurrent=max_concurrent), on_progress=ignore)
    assert len([*tmp_path.glob("file-*")]) == 6


def test_slots_take_hardly_longer_than_their_jobs(
    two_gpus: Placement, work: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray's tasks with a GPU would start 200 processes."""
    num_jobs, seconds = 200, 0.2
    tasks = {str(index): Task(job=ray_jobs.note_times, argument=(f"{index}", seconds)) for index in range(num_jobs)}
    run_tasks(work, tasks, two_gpus, on_progress=ignore)
    noted = [tuple(map(float, (tmp_path / f"{index}").read_text().split())) for index in range(num_jobs)]
    processes, begins, ends = map(set, zip(*noted, strict=True))
    beyond = 2 * (max(ends) - min(begins)) / (num_jobs * seconds) - 1
    with capsys.disabled():
        print(f"\n{num_jobs} jobs of {seconds} s in {len(processes)} processes: {beyond:.1%} beyond their own time")
    assert len(processes) == 2
    assert beyond < 1.0  # nine times as long where every job starts a process


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
