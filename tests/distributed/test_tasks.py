"""Tasks on a real Ray of this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from dim_ray.distributed.resources import DRIVER_RESOURCE, Placement, cluster, plan_placement
from dim_ray.distributed.tasks import run_tasks
from dim_ray.errors import DataError
from dim_ray.pipeline.workspace import Workspace
from tests.distributed import jobs
from tests.pipeline.small import make_config, make_work

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def placement(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Placement]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        config = make_config(tmp_path_factory.mktemp("cluster"))
        with cluster(config) as resources:
            assert resources["CPU"] >= 1
            assert resources[DRIVER_RESOURCE] >= 1
            yield plan_placement(config.study, resources)
    assert not ray.is_initialized()


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return make_work(tmp_path)


def test_every_job_runs_on_the_cores_that_it_was_given(placement: Placement, work: Workspace, tmp_path: Path) -> None:
    seen: list[float] = []
    calls = {f"job {index}": (jobs.note, f"file-{index}") for index in range(5)}
    run_tasks(work, calls, placement, on_progress=seen.append)
    assert [(tmp_path / f"file-{index}").read_text() for index in range(5)] == ["1"] * 5
    assert seen == sorted(seen)
    assert seen[-1] == 5


def test_no_jobs_take_no_time(placement: Placement, work: Workspace) -> None:
    run_tasks(work, {}, placement, on_progress=lambda done: pytest.fail("there is none"))


def test_error_for_a_person_comes_back_as_it_was_raised_and_the_others_are_stopped(
    placement: Placement, work: Workspace, tmp_path: Path
) -> None:
    if placement.max_concurrent < 2:
        pytest.skip("needs two cores")
    calls: dict[str, Any] = {"long": (jobs.sleep, 60.0), "broken": (jobs.wait_then_fail, "file.parquet")}
    started = time.monotonic()
    with pytest.raises(DataError) as failure:
        run_tasks(work, calls, placement, on_progress=lambda done: None)
    assert type(failure.value) is DataError
    assert str(failure.value) == "row 7 of file.parquet is broken; mend it."
    assert time.monotonic() - started < 50
    time.sleep(1.0)
    assert not (tmp_path / "slept").exists()


def test_defect_keeps_its_traceback(placement: Placement, work: Workspace) -> None:
    with pytest.raises(ZeroDivisionError) as failure:
        run_tasks(work, {"job": (jobs.break_down, "a")}, placement, on_progress=lambda done: None)
    assert "break_down" in str(failure.value)


def test_job_whose_process_dies_is_started_again(placement: Placement, work: Workspace, tmp_path: Path) -> None:
    run_tasks(work, {"job": (jobs.die_once, "file")}, placement, on_progress=lambda done: None)
    assert (tmp_path / "file-died").exists()
    assert (tmp_path / "file").exists()
