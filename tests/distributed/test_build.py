"""What is built for several configurations: each teacher and prior once, without Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dim_ray.core.training.ports import SilentReporter
from dim_ray.distributed import build
from dim_ray.distributed.build import build_networks
from dim_ray.distributed.cluster.placement import Placement
from dim_ray.distributed.tasks import Task
from dim_ray.pipeline.priors import prior_is_settled
from dim_ray.pipeline.teachers import missing_teachers
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress import SilentProgress
from tests.helpers.small import make_work

PLACEMENT = Placement(num_workers=1, cpus_per_worker=1, gpus_per_worker=0.0, max_concurrent=2)


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    work = make_work(tmp_path)
    return replace(work, config=work.config.with_fields({"pool.size": 2, "networks.teachers": ["mlp"]}))


def with_fields(work: Workspace, values: Mapping[str, Any]) -> Workspace:
    return replace(work, config=work.config.with_fields(values))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs tasks one after the other in this process, and returns their names."""
    names: list[str] = []

    def run(work: Workspace, tasks: Mapping[str, Task], placement: Placement, **options: Any) -> None:
        for name, task in tasks.items():
            names.append(name)
            assert task.job(work, task.argument, SilentReporter()) == []

    monkeypatch.setattr(build, "run_tasks", run)
    return names


def test_networks_that_configurations_share_are_built_once(work: Workspace, started: list[str]) -> None:
    variants = [
        with_fields(work, {"pool.num_snapshots": snapshots, "generator.capacity": capacity})
        for snapshots in (1, 2)
        for capacity in (6, 8)
    ]
    build_networks(work, [own.config for own in variants], PLACEMENT, SilentProgress())
    assert len(list(Path(work.artifacts.root, "teachers").iterdir())) == 2 * 2
    assert len(list(Path(work.artifacts.root, "priors").iterdir())) == 2
    assert all(not missing_teachers(own) and prior_is_settled(own) for own in variants)
    assert len(set(started)) == len(started)
    assert started[:2] == ["prior of capacity 8 (1 of 2)", "prior of capacity 6 (2 of 2)"]
    started.clear()
    build_networks(work, [own.config for own in variants], PLACEMENT, SilentProgress())
    assert started == []


def test_teacher_that_two_pools_have_in_common_is_built_once(work: Workspace, started: list[str]) -> None:
    mixed = with_fields(work, {"networks.teachers": ["mlp", "convnet3_w8"]})
    build_networks(work, [work.config, mixed.config], PLACEMENT, SilentProgress(), with_priors=False)
    assert len(list(Path(work.artifacts.root, "teachers").iterdir())) == 3
    assert missing_teachers(work) == missing_teachers(mixed) == []
    assert not prior_is_settled(work)


def test_single_pool_and_prior_are_called_what_they_are(work: Workspace, started: list[str]) -> None:
    build_networks(work, [work.config], PLACEMENT, SilentProgress())
    assert started[0] == f"prior of capacity {work.config.generator.capacity}"
    assert all(name.startswith("teacher ") and "of" not in name for name in started[1:])


def test_configuration_without_matching_needs_a_prior_alone(work: Workspace, started: list[str]) -> None:
    none = with_fields(work, {"matching.kind": "none"})
    build_networks(work, [none.config], PLACEMENT, SilentProgress())
    assert started == [f"prior of capacity {work.config.generator.capacity}"]
