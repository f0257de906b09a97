from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray

from dim_ray.config import StudyConfig
from dim_ray.distributed.cluster import autoscaler
from dim_ray.distributed.cluster.autoscaler import first_nodes, make_config_reader, nodes_with_growth, possible_growth
from dim_ray.distributed.cluster.placement import Placement, plan_placement
from dim_ray.errors import ResourceError
from dim_ray.progress import SilentProgress
from tests.helpers.cluster_files import LAUNCHED, load, prepared

HEAD_ALONE = {"CPU": 0.0, "GPU": 0.0, "memory": 8e9, "node:__internal_head__": 1.0}


def workers(**types: tuple[int, dict[str, float]]) -> dict[str, Any]:
    """Return an autoscaler's configuration with node types, by name: most nodes of each, and their resources."""
    described = {name: {"max_workers": count, "resources": resources} for name, (count, resources) in types.items()}
    return {"head_node_type": "head", "available_node_types": {"head": {"resources": {"CPU": 99}}, **described}}


def plan(config: dict[str, Any], *present: dict[str, float], **study: Any) -> Placement:
    return plan_placement(StudyConfig(**study), present, possible_growth(config, present))


@pytest.mark.parametrize("name", ["cluster.yaml", "gcp.yaml"])
def test_study_on_a_cluster_without_workers_counts_on_those_that_it_may_start(name: str) -> None:
    config = prepared(load(name))
    placement = plan(config, HEAD_ALONE, workers_per_trial=2)
    assert placement.gpus_per_worker == 1
    assert placement.max_concurrent == config["max_workers"] // 2


@pytest.mark.parametrize(
    ("study", "max_concurrent"),
    [
        ({}, 2 * 4),  # of the large ones, which have GPUs
        ({"gpus_per_worker": 0.0}, 2 * 16 + 3 * 4),
        ({"gpus_per_worker": 0.0, "cpus_per_worker": 3}, 2 * 5 + 3 * 1),
        ({"gpus_per_worker": 0.0, "cpus_per_worker": 8}, 2 * 2),
        ({"gpus_per_worker": 0.0, "cpus_per_worker": 16, "workers_per_trial": 2}, 1),
    ],
)
def test_no_more_nodes_are_counted_than_the_cluster_and_each_type_may_have(
    study: dict[str, Any], max_concurrent: int
) -> None:
    config = {"max_workers": 5, **workers(small=(10, {"CPU": 4}), large=(2, {"CPU": 16, "GPU": 4}))}
    assert plan(config, HEAD_ALONE, **study).max_concurrent == max_concurrent


@pytest.mark.parametrize(("memory", "max_concurrent"), [(8e9, 8), (2e9, 2), (0.5e9, 1)])
def test_trials_of_several_workers_are_as_many_as_the_head_has_memory_for(memory: float, max_concurrent: int) -> None:
    config, head = {"max_workers": 9, **workers(small=(9, {"CPU": 4}))}, {**HEAD_ALONE, "memory": memory}
    assert plan(config, head, workers_per_trial=4).max_concurrent == max_concurrent
    assert plan(config, head).max_concurrent == 9 * 4


def test_nodes_that_were_started_already_are_counted_once() -> None:
    config = {"max_workers": 3, **workers(small=(3, {"CPU": 4}))}
    assert plan(config, HEAD_ALONE, {"CPU": 4.0}, {"CPU": 4.0}).max_concurrent == 3 * 4


def test_head_that_trains_is_counted_beside_the_nodes_that_may_be_started() -> None:
    config = {"max_workers": 2, **workers(small=(2, {"CPU": 4}))}
    assert plan(config, {**HEAD_ALONE, "CPU": 3.0}, workers_per_trial=11).max_concurrent == 1


def test_what_is_there_counts_even_where_the_configuration_knows_nothing_of_it() -> None:
    config = {"max_workers": 1, **workers(small=(1, {"CPU": 4}))}
    assert plan(config, HEAD_ALONE, {"CPU": 8.0}).max_concurrent == 8


@pytest.mark.parametrize("name", LAUNCHED)
def test_worker_that_no_node_can_hold_is_refused_before_one_is_started(name: str) -> None:
    with pytest.raises(ResourceError, match="there is room for 0 on"):
        plan(prepared(load(name)), HEAD_ALONE, cpus_per_worker=1000)


def test_refusal_names_the_largest_node_that_may_be_started() -> None:
    config = {"max_workers": 2, **workers(small=(2, {"CPU": 4}), large=(1, {"CPU": 16, "GPU": 4}))}
    with pytest.raises(ResourceError, match="room for 0 on 3 nodes, the largest with 16 CPUs and 4 GPUs"):
        plan(config, HEAD_ALONE, cpus_per_worker=32)


@pytest.mark.parametrize(("num_started", "is_told"), [(0, True), (1, True), (2, False)])
def test_nodes_that_died_are_not_counted_and_who_waits_for_others_is_told(
    monkeypatch: pytest.MonkeyPatch, num_started: int, is_told: bool
) -> None:
    config = {"max_workers": 2, **workers(small=(2, {"CPU": 4}))}
    alive = [HEAD_ALONE, *[{"CPU": 4.0}] * num_started]
    nodes = [{"Alive": True, "Resources": node} for node in alive]
    monkeypatch.setattr(autoscaler, "_ask_head", lambda: config)
    monkeypatch.setattr(ray, "nodes", lambda: [*nodes, {"Alive": False, "Resources": {"CPU": 99.0}}])
    told: list[str] = []
    progress = SilentProgress()
    monkeypatch.setattr(progress, "message", told.append)
    assert nodes_with_growth(StudyConfig(), progress) == (alive, possible_growth(config, alive))
    assert bool(told) is is_told


def test_where_nobody_says_what_may_start_room_is_asked_for_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a node with a GPU is there, a trial needs GPUs."""
    worker = {"CPU": 8.0, "GPU": 1.0}
    there = [[HEAD_ALONE]] * 3 + [[HEAD_ALONE, worker]] * 2 + [[HEAD_ALONE, worker, worker]]
    calls: list[Any] = []

    def ask(bundles: list[dict[str, float]]) -> str:
        calls.append(bundles)
        return "asked"

    monkeypatch.setattr(autoscaler, "_ask_head", lambda: None)
    monkeypatch.setattr(autoscaler, "_POLL_SECONDS", 0.0)
    monkeypatch.setattr(autoscaler, "_nodes", lambda: there.pop(0))
    monkeypatch.setattr(autoscaler, "placement_group", ask)
    monkeypatch.setattr(autoscaler, "remove_placement_group", lambda asked: calls.append("removed"))
    progress = SilentProgress()
    monkeypatch.setattr(progress, "message", calls.append)
    study = StudyConfig(workers_per_trial=2, cpus_per_worker=4)
    assert nodes_with_growth(study, progress) == ([HEAD_ALONE, worker, worker], None)
    said = "no room for a trial on {}; asking for more, up to 300 s"
    assert calls == [
        *(said.format("1 node"), [{"CPU": 4.0, "GPU": 0.0}] * 2),
        *(said.format("2 nodes"), "removed", [{"CPU": 4.0, "GPU": 1.0}] * 2, "removed"),
    ]


def test_room_that_does_not_come_is_waited_for_no_longer_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[Any] = []
    monkeypatch.setattr(autoscaler, "_ask_head", lambda: None)
    monkeypatch.setattr(autoscaler, "_ROOM_SECONDS", 0.1)
    monkeypatch.setattr(autoscaler, "_nodes", lambda: [HEAD_ALONE])
    monkeypatch.setattr(autoscaler, "placement_group", lambda bundles: "asked")
    monkeypatch.setattr(autoscaler, "remove_placement_group", removed.append)
    assert nodes_with_growth(StudyConfig(), SilentProgress()) == ([HEAD_ALONE], None)
    assert removed == ["asked"]


READ = """
import pickle, sys
sys.modules["dim_ray"] = None  # as if it weren't installed
print(pickle.load(sys.stdin.buffer)())
"""


@pytest.mark.parametrize(("text", "config"), [("max_workers: 3\n", {"max_workers": 3}), (None, None)])
def test_head_without_our_code_says_what_ray_up_left_there(
    text: str | None, config: dict[str, Any] | None, tmp_path: Path
) -> None:
    if text:
        (tmp_path / "ray_bootstrap_config.yaml").write_text(text)
    sent = ray.cloudpickle.dumps(make_config_reader())
    said = subprocess.run([sys.executable, "-c", READ], input=sent, env={"HOME": str(tmp_path)}, capture_output=True)
    assert said.stdout.decode() == f"{config}\n", said.stderr


def test_machines_of_a_fixed_list_are_all_waited_for_and_those_of_a_cloud_are_not() -> None:
    assert {name: first_nodes(prepared(load(name))) for name in LAUNCHED} == {
        "cluster.yaml": 1,
        "gcp.yaml": 1,
        "on_prem.yaml": 3,
    }
