from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from dim_ray.config import StudyConfig
from dim_ray.distributed.cluster.placement import Placement, local_resources, plan_placement
from dim_ray.errors import ConfigError, ResourceError


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
        ({}, {}),
    ],
)
def test_trial_that_needs_more_than_there_is_is_refused(resources: dict[str, float], study: dict[str, Any]) -> None:
    with pytest.raises(ResourceError, match="can never be placed"):
        plan(resources, **study)


def test_workers_that_do_not_fit_on_single_gpus_are_not_counted() -> None:
    """Two workers of 0.6 GPUs don't share a GPU, although three need less than two GPUs in all."""
    assert plan({"CPU": 8.0, "GPU": 2.0}, gpus_per_worker=0.6).max_concurrent == 2


@pytest.mark.parametrize("gpus", [1.5, 2.0])
def test_gpus_that_a_worker_would_not_use_are_refused(gpus: float) -> None:
    with pytest.raises(ConfigError, match=rf"study\.gpus_per_worker is {gpus}; allowed: 0 to 1, because") as refusal:
        StudyConfig(gpus_per_worker=gpus)
    assert refusal.value.exit_code == 2


def test_workers_of_one_trial_on_one_gpu_are_refused() -> None:
    """NCCL refuses them."""
    with pytest.raises(
        ConfigError, match=r"study\.gpus_per_worker is 0\.5, but study\.workers_per_trial is 2: workers"
    ):
        StudyConfig(gpus_per_worker=0.5, workers_per_trial=2)
    StudyConfig(gpus_per_worker=0.0, workers_per_trial=2)
    StudyConfig(gpus_per_worker=1.0, workers_per_trial=2)


def test_this_machine_is_counted_without_starting_ray() -> None:
    assert local_resources() == {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}


def test_plan_needs_no_ray() -> None:
    code = (
        "import sys\n"
        "import dim_ray.distributed.cluster.joining\n"
        "from dim_ray.config import StudyConfig\n"
        "from dim_ray.distributed.cluster.placement import local_resources, plan_placement\n"
        "plan_placement(StudyConfig(), [local_resources()])\n"
        "print('ray' in sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout == "False\n"
