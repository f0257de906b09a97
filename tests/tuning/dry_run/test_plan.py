from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

import pytest

from dim_ray.config import Config, fingerprint, to_dict
from dim_ray.distributed.cluster.placement import Placement, plan_placement
from dim_ray.errors import ConfigError, DimError, ResourceError
from dim_ray.pipeline.evaluations import plan_evaluations
from dim_ray.pipeline.generators import generator_bytes
from dim_ray.pipeline.priors import prior_fingerprint
from dim_ray.pipeline.teachers import teacher_fingerprint
from dim_ray.pipeline.workspace import Workspace, dataset_card
from dim_ray.progress import Progress, SilentProgress
from dim_ray.store.writer import Writer
from tests.helpers import tiny
from tests.helpers.made_rows import evaluation
from tests.helpers.small import SEARCHED, build_networks, make_work
from tuning.dry_run import plan
from tuning.dry_run.estimate import Costs
from tuning.dry_run.plan import makespan, plan_study
from tuning.dry_run.probe import Probe
from tuning.dry_run.timings import Job, stored_seconds
from tuning.record import StudyRecord

PARAMETERS = {
    "pool.size": 2,
    "generator.capacity": 8,
    "matching.weight": 0.25,
    "matching.adversarial_weight": 1.5,
}
PLACEMENT = Placement(num_workers=1, cpus_per_worker=1, gpus_per_worker=0.0, max_concurrent=2)
SECONDS: dict[Job, float] = {"teacher": 10.0, "prior": 100.0, "trial": 1000.0, "student": 1.0}
BEGINS = datetime(2026, 1, 2)


class FixedProbe:
    """A Probe with fixed costs that notes the jobs that it is asked for."""

    start_seconds = 5.0
    asked: list[tuple[Job, Sequence[Any]]]
    num_processes: int

    def __init__(self, work: Workspace, placement: Placement, num_processes: int) -> None:
        FixedProbe.asked = []
        FixedProbe.num_processes = num_processes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def seconds(self, job: Job, config: Config, *arguments: Any) -> float:
        self.asked.append((job, arguments))
        return SECONDS[job]


@contextmanager
def no_ray(config: Config, progress: Progress) -> Iterator[Placement]:
    yield plan_placement(config.study, [vars(plan)["local_resources"]()])


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(plan, "cluster", no_ray)
    monkeypatch.setattr(plan, "check_nodes", lambda *_, **options: None)
    monkeypatch.setattr(plan, "local_resources", lambda: {"CPU": 2.0, "GPU": 0.0})
    monkeypatch.setattr(plan, "Probe", FixedProbe)


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return make_work(tmp_path)


def with_study(work: Workspace, **changes: Any) -> Workspace:
    return replace(work, config=replace(work.config, study=replace(work.config.study, **changes)))


def with_evaluation(work: Workspace, **changes: Any) -> Workspace:
    return replace(work, config=replace(work.config, evaluation=replace(work.config.evaluation, **changes)))


def plan_text(work: Workspace) -> str:
    lines, _ = plan_study(work, SilentProgress(), BEGINS)
    return "\n".join(lines)


def counts(work: Workspace) -> dict[str, int]:
    """Return the number of jobs of each stage."""
    [costs] = re.findall(r"of devices: (.*)", plan_text(work))
    return {name: int(count) for count, name in re.findall(r"for (\d+) ([a-z ]+)", costs)}


def store_network(work: Workspace, kind: str, seconds: float) -> None:
    """Store the card of a network with another seed than the study's own."""
    section = work.config.prior if kind == "priors" else work.config.pool
    card = {
        "dataset": dataset_card(work.dataset),
        "training": to_dict(replace(section, seed=9)),
        "architecture": tiny.ARCHITECTURE,
        "generator": to_dict(work.config.generator),
        "num_workers": 1,
        "wall_seconds": seconds,
    }
    other = replace(
        work,
        config=replace(work.config, pool=replace(work.config.pool, seed=9), prior=replace(work.config.prior, seed=9)),
    )
    key = prior_fingerprint(other) if kind == "priors" else teacher_fingerprint(other, 0)
    work.artifacts.write(kind, key, {"weights": b""}, card)


def write_trial(work: Workspace, number: int, seconds: float | None, *, epoch: int = tiny.MATCHING.epochs) -> None:
    """Write the row of a trial, and the card of its generator if that says how long it took."""
    chosen = {**PARAMETERS, "matching.weight": 0.1 * (number + 1), "generator.capacity": work.config.generator.capacity}
    record = StudyRecord(work)
    if seconds is not None:
        card = {"dataset": dataset_card(work.dataset), "wall_seconds": seconds}
        work.artifacts.write("generators", record.generator_of(chosen), {"weights": b""}, card)
    record.write_trial(number, chosen, {"validation_accuracy": 0.5, "epoch": epoch, "time_total_s": 1.0})


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
    assert "0 costs from the store" in text
    assert "every trial is counted to its end" in text
    assert text.count("are free") == 2
    assert FixedProbe.num_processes == 2
    assert not list(tmp_path.rglob("*.*"))
    assert "counted to its end" not in plan_text(with_study(work, scheduler="none"))


def test_probe_has_no_more_processes_than_workers_that_share_cores_or_a_gpu(
    work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_text(with_study(work, max_concurrent=1))
    assert FixedProbe.num_processes == 1
    monkeypatch.setattr(plan, "local_resources", lambda: {"CPU": 16.0, "GPU": 4.0})
    plan_text(work)
    assert FixedProbe.num_processes == 1
    plan_text(with_study(work, gpus_per_worker=0.5))
    assert FixedProbe.num_processes == 2


def test_what_is_there_costs_nothing(work: Workspace) -> None:
    build_networks(replace(work, config=replace(work.config, pool=replace(work.config.pool, size=2))))
    StudyRecord(work).write_trial(0, PARAMETERS, {"validation_accuracy": 0.5, "epoch": 2, "time_total_s": 4.0})
    assert "2 trials to run, 1 of 3 finished" in plan_text(work)
    assert counts(work)["teachers and priors"] == 1  # the other capacity's prior
    # One trial has nobody to contend with.
    assert counts(with_study(work, num_trials=1)) == {"students": 16}
    assert "students of contenders" not in counts(with_study(work, contenders=1))


def test_networks_cost_what_networks_of_the_same_recipe_and_data_did(work: Workspace) -> None:
    store_network(work, "teachers", 30.0)
    store_network(work, "priors", 70.0)
    config, capacity = work.config, work.config.generator.capacity
    assert stored_seconds(work, "prior", config) == 70.0
    assert stored_seconds(work, "prior", config.with_fields({"prior.learning_rate": 0.5})) == 70.0
    assert stored_seconds(work, "prior", config.with_fields({"prior.batch_size": 2})) is None
    assert stored_seconds(work, "prior", config.with_fields({"prior.epochs": 9})) is None
    assert stored_seconds(work, "prior", config.with_fields({"generator.capacity": capacity + 1})) is None
    assert stored_seconds(work, "teacher", config, tiny.ARCHITECTURE) == 30.0
    assert stored_seconds(work, "teacher", config, "convnet3") is None
    others = replace(work, dataset=replace(work.dataset, digest="1" * 16))
    assert stored_seconds(others, "prior", config) is None
    probe = FixedProbe(work, PLACEMENT, 1)
    costs = Costs(work, probe)  # type: ignore[arg-type]  # stands for a Probe
    assert costs.networks([config, config.with_fields({"generator.capacity": capacity + 1})]) == [100.0, 70.0, 30, 30]
    assert (costs.num_stored, costs.num_probed) == (2, 1)


def test_a_trial_costs_what_the_cards_of_its_likes_say(work: Workspace) -> None:
    work = with_study(work, scheduler="none")
    config = work.config
    write_trial(work, 0, None)
    assert stored_seconds(work, "trial", config) is None, "its generator isn't there any more"
    write_trial(work, 1, 90.0, epoch=1)
    assert stored_seconds(work, "trial", config) is None, "it was stopped"
    others = replace(work, study="others", dataset=replace(work.dataset, digest="1" * 16))
    write_trial(others, 2, 90.0)
    assert stored_seconds(work, "trial", config) is None, "its data were others"
    for number, seconds in enumerate((4.0, 6.0, 50.0), start=3):
        write_trial(work, number, seconds)
    assert stored_seconds(work, "trial", config) == 6.0  # the median
    for more in ({"selection_seeds": 3}, {"selection_images_per_class": (1, 3)}, {"scheduler": "asha"}):
        other = with_study(work, **more).config
        assert stored_seconds(work, "trial", other) is None, "other students validate at other rungs"
    longer = with_evaluation(work, epochs=20).config
    assert stored_seconds(work, "trial", longer) is None, "other students validate"


def test_a_student_costs_what_students_of_the_same_recipe_and_data_did(work: Workspace) -> None:
    work = with_evaluation(work, images_per_class=(2,), protocols=("on_the_fly",))
    student = plan_evaluations(work, "unknown")[0]
    recipe = student.recipe
    same = {
        "dataset": work.dataset.name,
        "data_fingerprint": work.dataset.digest,
        "ipc": 2,
        "architecture": tiny.ARCHITECTURE,
        "budget_fingerprint": fingerprint(recipe),
        "wall_seconds": 2.0,
    }
    others = (replace(recipe, batch_size=3), replace(recipe, labels="soft"), replace(recipe, epochs=9))
    dear = [{"budget_fingerprint": fingerprint(other)} for other in others]
    dear += [{"data_fingerprint": "1" * 16}, {"protocol": "fixed"}, {"ipc": 1}, {"architecture": "convnet3"}]
    rows = [evaluation(**same), *(evaluation(**{**same, "wall_seconds": 400.0, **changes}) for changes in dear)]
    Writer(work.config.storage.root).append_evaluations(rows)
    assert stored_seconds(work, "student", work.config, student, 1) == 2.0
    assert stored_seconds(work, "student", work.config, replace(student, recipe=others[1]), 1) == 400.0
    assert (
        stored_seconds(work, "student", work.config, replace(student, recipe=replace(recipe, batch_size=2)), 1) is None
    )


def test_plan_of_a_searched_space_has_every_pool_and_prior_and_each_kind_of_step(work: Workspace) -> None:
    space = {
        **SEARCHED,
        "pool.num_snapshots": [1, 2],
        "prior.learning_rate": [1e-3, 2e-3],
        "matching.kind": ["logits", "features"],
    }
    assert counts(with_study(work, space=space))["teachers and priors"] == 2 * 2 + 2 * 2
    jobs = [job for job, _ in FixedProbe.asked]
    assert jobs.count("teacher") == 1
    assert jobs.count("prior") == 2  # of two capacities
    assert 2 <= jobs.count("trial") <= 2 * 2  # each with one of two kinds of matching, drawn at random


def test_plan_says_what_is_too_large_and_leaves_it_out(work: Workspace) -> None:
    size = generator_bytes(replace(work.config.generator, capacity=6), work.dataset)
    limited = with_study(work, max_generator_bytes=size)
    assert counts(limited)["teachers and priors"] == 2 + 1
    assert "1 of the 2 generators of the space are larger" in plan_text(limited)


def test_probe_measures_every_job_in_processes_and_keeps_nothing(
    work: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = work.config
    student = plan_evaluations(with_evaluation(work, protocols=("real_fixed",)), "unknown")[0]
    with Probe(work, PLACEMENT, 1) as probe:
        assert probe.start_seconds > 0
        for seconds in (
            probe.seconds("teacher", config, tiny.ARCHITECTURE),
            probe.seconds("prior", config),
            probe.seconds("trial", config),
            probe.seconds("student", config, student, 2),
        ):
            assert 0 < seconds < 100
        with pytest.raises(DimError, match="unknown architecture"):
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
