from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

import pytest

from dim_ray.config import Config
from dim_ray.distributed.cluster import joining
from dim_ray.distributed.cluster.placement import Node, Placement, plan_placement
from dim_ray.errors import ConfigError, DimError, ResourceError
from dim_ray.pipeline.evaluations import plan_evaluations
from dim_ray.pipeline.generators import generator_bytes
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress import Progress, SilentProgress
from tests.helpers import tiny
from tests.helpers.small import SEARCHED, build_networks, make_work
from tuning.dry_run import plan
from tuning.dry_run.plan import makespan, plan_study
from tuning.dry_run.probe import Job, Probe
from tuning.record import StudyRecord

PARAMETERS = {
    "pool.size": 2,
    "generator.capacity": 8,
    "matching.weight": 0.25,
    "matching.adversarial_weight": 1.5,
}
TWO_CORES: Node = {"CPU": 2.0, "GPU": 0.0}
SECONDS: dict[Job, float] = {"teacher": 10.0, "prior": 100.0, "trial": 1000.0, "student": 1.0}
BEGINS = datetime(2026, 1, 2)


class FixedProbe:
    """A Probe with fixed costs that notes the jobs that it is asked for."""

    start_seconds = 5.0
    asked: list[tuple[Job, Sequence[Any]]]
    num_workers: int

    def __init__(self, work: Workspace, placement: Placement, num_workers: int) -> None:
        FixedProbe.asked = []
        FixedProbe.num_workers = num_workers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def seconds(self, job: Job, config: Config, *arguments: Any) -> float:
        self.asked.append((job, arguments))
        return SECONDS[job]


@contextmanager
def no_ray(config: Config, progress: Progress) -> Iterator[Placement]:
    yield plan_placement(config.study, vars(plan)["_nodes"]())


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(plan, "cluster", no_ray)
    monkeypatch.setattr(plan, "check_nodes", lambda *_, **options: None)
    monkeypatch.setattr(plan, "_nodes", lambda: [TWO_CORES])
    monkeypatch.setattr(plan, "Probe", FixedProbe)


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return make_work(tmp_path)


def with_study(work: Workspace, **changes: Any) -> Workspace:
    return replace(work, config=replace(work.config, study=replace(work.config.study, **changes)))


def plan_text(work: Workspace) -> str:
    lines, _ = plan_study(work, SilentProgress(), BEGINS)
    return "\n".join(lines)


def counts(work: Workspace) -> dict[str, int]:
    """Return the number of jobs of each stage."""
    [costs] = re.findall(r"of devices: (.*)", plan_text(work))
    return {name: int(count) for count, name in re.findall(r"for (\d+) ([a-z ]+)", costs)}


def test_study_is_planned_with_every_cost_and_nothing_is_begun(work: Workspace, tmp_path: Path) -> None:
    lines, end = plan_study(work, SilentProgress(), BEGINS)
    text = "\n".join(lines)
    assert "3 trials to run, 0 of 3 finished; sampler tpe, scheduler asha" in text
    assert counts(work) == {
        "teachers and priors": 4,
        "trials": 3,
        "students of contenders": 3 * 5,
        "students": 16,
    }
    # Two at a time: priors, teachers, trials and students; before them the command, Ray and two kinds of process start.
    seconds = 100 + 10 + 2 * 1000 + 8 + 8 + 4 * FixedProbe.start_seconds
    assert end - BEGINS == timedelta(seconds=seconds)
    assert "2 trials at a time; begun now, it ends at 00:3" in text
    assert "every trial is counted to its end" in text
    assert text.count("are free") == 2
    assert FixedProbe.num_workers == 2
    assert not list(tmp_path.rglob("*.*"))
    assert "counted to its end" not in plan_text(with_study(work, scheduler="none"))


@pytest.mark.parametrize(
    ("nodes", "changes", "expected"),
    [
        ([TWO_CORES], {"max_concurrent": 1}, 1),
        ([TWO_CORES, {"CPU": 3.0}], {}, 3),
        ([{"CPU": 16.0, "GPU": 4.0}], {}, 3),  # three trials
        ([{"CPU": 16.0, "GPU": 1.0}], {"gpus_per_worker": 0.5}, 2),
    ],
)
def test_probe_has_no_more_workers_than_share_a_node(
    work: Workspace, monkeypatch: pytest.MonkeyPatch, nodes: list[Node], changes: dict[str, Any], expected: int
) -> None:
    monkeypatch.setattr(plan, "_nodes", lambda: nodes)
    plan_text(with_study(work, **changes))
    assert FixedProbe.num_workers == expected


def test_what_is_there_costs_nothing(work: Workspace) -> None:
    build_networks(replace(work, config=replace(work.config, pool=replace(work.config.pool, size=2))))
    StudyRecord(work).write_trial(0, PARAMETERS, {"validation_accuracy": 0.5, "epoch": 2, "time_total_s": 4.0})
    assert "2 trials to run, 1 of 3 finished" in plan_text(work)
    assert counts(work)["teachers and priors"] == 1  # the other capacity's prior
    # One trial has nobody to contend with.
    assert counts(with_study(work, num_trials=1)) == {"students": 16}
    assert "students of contenders" not in counts(with_study(work, contenders=1))


def test_plan_of_a_searched_space_has_every_pool_and_prior_and_each_kind_of_step(work: Workspace) -> None:
    space = {
        **SEARCHED,
        "pool.num_snapshots": [1, 2],
        "prior.learning_rate": [1e-3, 2e-3],
        "matching.kind": ["logits", "features"],
    }
    assert counts(with_study(work, space=space))["teachers and priors"] == 2 * 2 + 2 * 2


def test_plan_says_what_is_too_large_and_leaves_it_out(work: Workspace) -> None:
    size = generator_bytes(replace(work.config.generator, capacity=6), work.dataset)
    limited = with_study(work, max_generator_bytes=size)
    assert counts(limited)["teachers and priors"] == 2 + 1
    assert "1 of the 2 generators of the space are larger" in plan_text(limited)


@pytest.mark.ray
@pytest.mark.slow
def test_probe_measures_each_kind_of_job_once_and_keeps_nothing(
    work: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = work.config
    evaluation = replace(config.evaluation, protocols=("real_fixed",))
    student = plan_evaluations(replace(work, config=replace(config, evaluation=evaluation)), "unknown")[0]
    with joining.cluster(config, SilentProgress()) as placement, Probe(work, placement, 1) as probe:
        assert probe.start_seconds > 0
        found = {
            "teacher": probe.seconds("teacher", config, tiny.ARCHITECTURE),
            "prior": probe.seconds("prior", config),
            "trial": probe.seconds("trial", config),
            "student": probe.seconds("student", config, student, 2),
        }
        assert all(0 < seconds < 100 for seconds in found.values())
        cheaper = config.with_fields({"prior.learning_rate": 0.5, "prior.seed": 3})
        assert probe.seconds("prior", cheaper) == found["prior"]
        assert probe.seconds("prior", config.with_fields({"prior.batch_size": 2})) != found["prior"]
        with pytest.raises(DimError, match=r"^architecture has the unknown"):
            probe.seconds("teacher", config, "resnet0")
    assert not list(tmp_path.rglob("*.*"))


def test_trial_that_never_fits_is_refused_as_a_run_refuses_it(work: Workspace) -> None:
    with pytest.raises(ResourceError, match="a trial can never be placed"):
        plan_text(with_study(work, cpus_per_worker=3))


def test_study_of_another_configuration_is_refused(work: Workspace) -> None:
    StudyRecord(work).open()
    with pytest.raises(ConfigError, match="began with another configuration"):
        plan_text(with_study(work, seed=1))


def test_jobs_are_packed_into_slots_in_their_order() -> None:
    assert makespan([], 2) == 0.0
    assert makespan([3.0, 2.0, 2.0], 1) == 7.0
    assert makespan([3.0, 2.0, 2.0], 2) == 4.0
    assert makespan([1.0], 4) == 1.0
