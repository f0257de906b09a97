from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray._private import services

from dim_ray.config import Config, StudyConfig
from dim_ray.distributed.cluster.joining import cluster, joins_a_cluster
from dim_ray.distributed.cluster.placement import Placement, local_resources, plan_placement
from dim_ray.errors import ConfigError, DimError, ResourceError
from dim_ray.progress import SilentProgress
from tests.helpers.ray_nodes import nodes, run_command


def plan(*nodes: dict[str, float], **study: Any) -> Placement:
    return plan_placement(StudyConfig(**study), nodes)


@pytest.mark.parametrize(
    ("resources", "study", "max_concurrent"),
    [
        ({"CPU": 2.0}, {}, 2),
        ({"CPU": 7.0}, {"cpus_per_worker": 2}, 3),
        ({"CPU": 8.0}, {"workers_per_trial": 2, "cpus_per_worker": 2}, 2),
        ({"CPU": 2.0}, {"workers_per_trial": 2}, 1),
        ({"CPU": 64.0, "GPU": 8.0}, {}, 8),
        ({"CPU": 4.0, "GPU": 8.0}, {}, 4),
        ({"CPU": 64.0, "GPU": 8.0}, {"workers_per_trial": 4}, 2),
        ({"CPU": 64.0, "GPU": 2.0}, {"gpus_per_worker": 0.25}, 8),
        ({"CPU": 64.0, "GPU": 1.0}, {"gpus_per_worker": 0.1}, 10),
        ({"CPU": 64.0, "GPU": 8.0}, {"gpus_per_worker": 3.0}, 2),
        ({"CPU": 6.0, "GPU": 2.0}, {"gpus_per_worker": 0.0}, 6),
        ({"CPU": 16.0}, {"max_concurrent": 3}, 3),
        ({"CPU": 2.0}, {"max_concurrent": 3}, 2),
    ],
)
def test_as_many_trials_run_as_the_scarcest_resource_holds(
    resources: dict[str, float], study: dict[str, Any], max_concurrent: int
) -> None:
    assert plan(resources, **study).max_concurrent == max_concurrent


@pytest.mark.parametrize(
    ("nodes", "study", "max_concurrent"),
    [
        ([{"CPU": 3.0}] * 2, {"cpus_per_worker": 2}, 2),  # 3 by the sum
        ([{"CPU": 3.0}] * 4, {"cpus_per_worker": 2, "workers_per_trial": 3}, 1),
        ([{"CPU": 8.0}] * 8, {"cpus_per_worker": 8, "workers_per_trial": 4}, 2),
        ([{"CPU": 0.0}, {"CPU": 4.0}, {"CPU": 2.0}], {"cpus_per_worker": 2, "workers_per_trial": 3}, 1),
        ([{"CPU": 64.0}, {"CPU": 8.0, "GPU": 4.0}, {"CPU": 2.0, "GPU": 4.0}], {}, 6),
        ([{"CPU": 8.0, "GPU": 3.0}] * 2, {"gpus_per_worker": 2.0}, 2),
    ],
)
def test_no_worker_is_spread_over_nodes_and_those_of_a_trial_may_be(
    nodes: list[dict[str, float]], study: dict[str, Any], max_concurrent: int
) -> None:
    assert plan(*nodes, **study).max_concurrent == max_concurrent


@pytest.mark.parametrize(
    ("resources", "gpus"), [({"CPU": 8.0}, 0.0), ({"CPU": 8.0, "GPU": 0.0}, 0.0), ({"CPU": 8.0, "GPU": 4.0}, 1.0)]
)
def test_worker_gets_a_gpu_where_there_are_any(resources: dict[str, float], gpus: float) -> None:
    assert plan(resources, workers_per_trial=2, cpus_per_worker=3) == Placement(
        num_workers=2, cpus_per_worker=3, gpus_per_worker=gpus, max_concurrent=1
    )


def test_trial_that_can_never_be_placed_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(ResourceError) as refusal:
        plan({"CPU": 6.0, "GPU": 1.0}, workers_per_trial=2, cpus_per_worker=2)
    text = str(refusal.value)
    assert "can never be placed" in text
    assert "2 workers x 2 CPUs and 1 GPUs, each worker on one node" in text
    assert "there is room for 1 on 1 node, the largest with 6 CPUs and 1 GPUs" in text
    assert "--workers-per-trial" in text
    assert refusal.value.exit_code == 2


@pytest.mark.parametrize(
    ("nodes", "study", "room"),
    [
        ([{"CPU": 8.0}] * 8, {"cpus_per_worker": 16}, "0 on 8 nodes, the largest with 8 CPUs and 0 GPUs"),
        (
            [{"CPU": 64.0}, {"CPU": 2.0, "GPU": 1.0}],
            {"cpus_per_worker": 4, "gpus_per_worker": 1.0},
            "0 on 2 nodes, the largest with 2 CPUs and 1 GPUs",  # the GPU is what the other lacks
        ),
        ([{"CPU": 3.0}] * 2, {"cpus_per_worker": 2, "workers_per_trial": 3}, "2 on 2 nodes, the largest with 3 CPUs"),
    ],
)
def test_trial_that_the_cluster_has_room_for_and_its_nodes_have_not_is_refused(
    nodes: list[dict[str, float]], study: dict[str, Any], room: str
) -> None:
    with pytest.raises(ResourceError, match=f"can never be placed: .* there is room for {room}"):
        plan(*nodes, **study)


@pytest.mark.parametrize(
    ("resources", "study"),
    [
        ({"CPU": 2.0}, {"workers_per_trial": 3}),
        ({"CPU": 2.0}, {"cpus_per_worker": 3}),
        ({"CPU": 2.0}, {"gpus_per_worker": 1.0}),
        ({"CPU": 8.0, "GPU": 1.0}, {"workers_per_trial": 2}),
        ({"CPU": 8.0, "GPU": 1.0}, {"gpus_per_worker": 2.0}),
        ({}, {}),
    ],
)
def test_trial_that_needs_more_than_there_is_is_refused(resources: dict[str, float], study: dict[str, Any]) -> None:
    with pytest.raises(ResourceError, match="can never be placed"):
        plan(resources, **study)


def test_workers_that_do_not_fit_on_single_gpus_are_not_counted() -> None:
    """Two workers of 0.6 GPUs don't share a GPU, although three need less than two GPUs in all."""
    assert plan({"CPU": 8.0, "GPU": 2.0}, gpus_per_worker=0.6).max_concurrent == 2
    with pytest.raises(ResourceError, match="can never be placed"):
        plan({"CPU": 8.0, "GPU": 2.0}, gpus_per_worker=0.6, workers_per_trial=3)


def test_part_of_a_gpu_beside_whole_ones_is_refused() -> None:
    """Ray gives out parts of one GPU, or whole GPUs."""
    with pytest.raises(ConfigError, match=r"study\.gpus_per_worker is 1\.5; allowed: .* above 1 a whole number"):
        StudyConfig(gpus_per_worker=1.5)


def test_this_machine_is_counted_without_starting_ray() -> None:
    assert local_resources() == {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}


@pytest.fixture(params=[None, "", "local", "127.0.0.1:6379"])
def address(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | None:
    if request.param is None:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    else:
        monkeypatch.setenv("RAY_ADDRESS", request.param)
    value: str | None = request.param
    return value


def test_cluster_is_joined_where_its_address_is_set(address: str | None) -> None:
    assert joins_a_cluster() is (address == "127.0.0.1:6379")


def test_plan_needs_no_ray() -> None:
    code = (
        "import sys\n"
        "from dim_ray.config import Config, StudyConfig\n"
        "from dim_ray.distributed.cluster.joining import local_resources, plan_placement\n"
        "plan_placement(StudyConfig(), [local_resources()])\n"
        "print('ray' in sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout == "False\n"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no.such.host.invalid:6379", "127.0.0.1:99999"])
def test_address_where_nobody_listens_is_refused_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    message = rf"RAY_ADDRESS is '{re.escape(address)}', and no Ray cluster answers there \(.*\); start one"
    with pytest.raises(ResourceError, match=message), cluster(Config(), SilentProgress()):
        pytest.fail("it was joined")


@pytest.mark.ray
@pytest.mark.slow
def test_missing_cluster_of_this_machine_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))  # where Ray notes what runs
    monkeypatch.setattr(
        services, "find_gcs_addresses", functools.cache(set)
    )  # among all processes, such as those of other tests
    with (
        pytest.raises(ResourceError, match="RAY_ADDRESS is 'auto', and no Ray cluster answers"),
        cluster(Config(), SilentProgress()),
    ):
        pytest.fail("there is one")


def test_ray_that_does_not_come_up_in_time_gives_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def time_out(**options: Any) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", time_out)
    with pytest.raises(DimError, match=r"Ray didn't start .*timed out"), cluster(Config(), SilentProgress()):
        pytest.fail("it is up")


def test_defect_at_the_start_of_ray_keeps_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", lambda **options: 1 / 0)
    with pytest.raises(ZeroDivisionError), cluster(Config(), SilentProgress()):
        pytest.fail("it is up")


JOIN = """
from dim_ray.config import Config, StudyConfig
from dim_ray.distributed.cluster.joining import cluster
from dim_ray.errors import ResourceError
from dim_ray.progress import SilentProgress

for study in (StudyConfig(cpus_per_worker=3), StudyConfig(cpus_per_worker=2)):
    try:
        with cluster(Config(study=study), SilentProgress()) as placement:
            pass  # its output is Ray's
        print(placement.max_concurrent)
    except ResourceError as error:
        print(error)
"""


@pytest.mark.ray
@pytest.mark.slow
def test_worker_that_none_of_two_nodes_can_hold_is_refused_when_they_are_joined(tmp_path: Path) -> None:
    with nodes({}, {}, num_cpus=2) as address:
        joined = run_command(address, ["-c", JOIN], cwd=tmp_path)
    assert "there is room for 0 on 2 nodes, the largest with 2 CPUs" in joined.stdout, joined.stderr
    assert joined.stdout.splitlines()[1:] == ["2"], joined.stderr
