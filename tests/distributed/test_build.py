"""Networks and generators of several configurations, each built once, without Ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dim_ray.core.training.ports import SilentReporter, SingleWorker
from dim_ray.distributed import build
from dim_ray.distributed.bridge import OnProgress
from dim_ray.distributed.build import build_networks, distill_one
from dim_ray.distributed.cluster.placement import Placement
from dim_ray.distributed.tasks import Task
from dim_ray.distributed.trainer import WorkerJob
from dim_ray.pipeline.generators import generator_fingerprint
from dim_ray.pipeline.priors import prior_is_settled
from dim_ray.pipeline.teachers import missing_teachers
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress import SilentProgress
from tests.helpers.small import build_networks as small_networks
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
    """Names of the tasks that were started; they run one after the other in this process."""
    names: list[str] = []

    def run(work: Workspace, tasks: Mapping[str, Task], placement: Placement, **options: Any) -> None:
        for name, task in tasks.items():
            names.append(name)
            task.job(work, task.argument, SilentReporter())

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


def test_configuration_without_matching_needs_only_a_prior(work: Workspace, started: list[str]) -> None:
    none = with_fields(work, {"matching.kind": "none"})
    build_networks(work, [none.config], PLACEMENT, SilentProgress())
    assert started == [f"prior of capacity {work.config.generator.capacity}"]


def test_several_workers_build_the_pool_first_and_then_each_prior(
    work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[tuple[str, int, bool]] = []
    seen: list[float] = []

    @contextmanager
    def watching(costs: Mapping[str, float], on_progress: OnProgress) -> Iterator[None]:
        yield
        on_progress(1.0, "")

    def run(job: WorkerJob, own: Workspace, placement: Placement, *, what: str, board: None, **options: bool) -> None:
        runs.append((what, own.config.generator.capacity, options.get("is_elastic", False)))
        job(own, lambda name: SilentReporter(), SingleWorker())

    progress = SilentProgress()
    monkeypatch.setattr(build, "watching", watching)
    monkeypatch.setattr(build, "run_workers", run)
    monkeypatch.setattr(progress, "advance", lambda done, note="": seen.append(done))
    variants = [with_fields(work, {"generator.capacity": capacity}) for capacity in (6, 8)]
    build_networks(work, [own.config for own in variants], replace(PLACEMENT, num_workers=2), progress)
    assert runs == [("teacher training", 6, True), ("prior", 8, False), ("prior", 6, False)]
    assert seen == [2, 3, 4]
    assert all(not missing_teachers(own) and prior_is_settled(own) for own in variants)
    build_networks(work, [own.config for own in variants], replace(PLACEMENT, num_workers=2), progress)
    assert len(runs) == 3


@pytest.mark.parametrize("num_workers", [1, 2])
def test_generator_is_distilled_as_one_job(
    work: Workspace, started: list[str], monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    @contextmanager
    def watching(costs: Mapping[str, float], on_progress: OnProgress) -> Iterator[None]:
        yield

    def run(job: WorkerJob, own: Workspace, placement: Placement, *, what: str, board: None) -> None:
        started.append(what)
        job(own, lambda name: SilentReporter(), SingleWorker())

    monkeypatch.setattr(build, "watching", watching)
    monkeypatch.setattr(build, "run_workers", run)
    small_networks(work)
    distill_one(work, replace(PLACEMENT, num_workers=num_workers), SilentProgress())
    assert started == ["distillation"]
    assert work.artifacts.exists("generators", generator_fingerprint(work))
