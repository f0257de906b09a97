from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from dim_ray.config import fingerprint, to_dict
from dim_ray.errors import ConfigError, ResourceError
from dim_ray.pipeline.generators import generator_bytes
from dim_ray.pipeline.priors import prior_fingerprint
from dim_ray.pipeline.teachers import teacher_fingerprint
from dim_ray.pipeline.workspace import Workspace, dataset_card
from dim_ray.progress import SilentProgress
from dim_ray.store.writer import Writer
from tests.helpers import tiny
from tests.helpers.made_rows import evaluation
from tests.helpers.small import SEARCHED, build_networks, make_work
from tuning.dry_run import plan
from tuning.dry_run.plan import Plan, expected_epochs, makespan, plan_study
from tuning.dry_run.probe import Probe
from tuning.dry_run.timings import StoredTimings
from tuning.record import StudyRecord

PARAMETERS = {"pool.size": 2, "generator.capacity": 8, "matching.weight": 0.25, "matching.adversarial_weight": 1.5}


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(plan, "local_resources", lambda: {"CPU": 2.0, "GPU": 0.0})
    monkeypatch.setattr("tuning.dry_run.probe._STAGE_SECONDS", 0.05)
    monkeypatch.setattr(plan, "_TRIAL_MODULE", "json")
    monkeypatch.setattr("dim_ray.pipeline.workspace.torch.set_num_threads", lambda count: None)


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return make_work(tmp_path)


def with_study(work: Workspace, **changes: Any) -> Workspace:
    return replace(work, config=replace(work.config, study=replace(work.config.study, **changes)))


def with_evaluation(work: Workspace, **changes: Any) -> Workspace:
    return replace(work, config=replace(work.config, evaluation=replace(work.config.evaluation, **changes)))


def make_plan(work: Workspace) -> Plan:
    return plan_study(work, SilentProgress())


def costs_of(made: Plan) -> dict[str, list[float]]:
    return {stage.name: list(stage.jobs) for stage in made.stages}


def store_network(work: Workspace, kind: str, seconds: float, *, epochs: int) -> None:
    """Stores the card of a network with other epochs, which is none of the study's own."""
    section = work.config.prior if kind == "priors" else work.config.pool
    card = {
        "dataset": dataset_card(work.dataset),
        "training": to_dict(replace(section, epochs=epochs)),
        "architecture": tiny.ARCHITECTURE,
        "generator": to_dict(work.config.generator),
        "num_workers": 1,
        "wall_seconds": seconds,
    }
    other = replace(
        work,
        config=replace(work.config, pool=replace(work.config.pool, seed=9), prior=replace(work.config.prior, seed=9)),
    )
    identity = prior_fingerprint(other) if kind == "priors" else teacher_fingerprint(other, 0)
    work.artifacts.write(kind, identity, {"weights": b""}, card)


def store_generator(work: Workspace, number: int, seconds: float) -> dict[str, Any]:
    """Stores the card of the generator of a trial that says how long it took; returns the trial's parameters."""
    chosen = {**PARAMETERS, "matching.weight": 0.1 * (number + 1), "generator.capacity": work.config.generator.capacity}
    card = {"dataset": dataset_card(work.dataset), "wall_seconds": seconds}
    work.artifacts.write("generators", StudyRecord(work).generator_of(chosen), {"weights": b""}, card)
    return chosen


def result(seconds: float, *, epoch: int = tiny.MATCHING.epochs) -> dict[str, Any]:
    return {"validation_accuracy": 0.5, "epoch": epoch, "time_total_s": seconds}


def test_study_is_planned_with_every_cost_and_nothing_is_begun(work: Workspace, tmp_path: Path) -> None:
    made = make_plan(work)
    jobs = costs_of(made)
    assert (made.num_trials, made.num_finished, made.placement.max_concurrent) == (3, 0, 2)
    assert {name: len(own) for name, own in jobs.items()} == {
        "teachers and priors": 4,
        "trials": 3,
        "students of contenders": 3 * 5,
        "students": 16,
    }
    assert all(seconds >= 0 for own in jobs.values() for seconds in own)
    assert made.device_seconds > 0
    assert made.wall_seconds >= made.device_seconds / 2 + 3 * made.start_seconds
    assert (made.num_stored, made.num_probed > 0) == (0, True)
    assert not list(tmp_path.rglob("*.*"))
    text = "\n".join(replace(made, start_seconds=10.0).lines(datetime(2026, 1, 2, 23, 59, 55)))
    assert "3 trials to run, 0 of 3 finished; sampler tpe, scheduler asha" in text
    assert "2 trials at a time; begun now, it ends at 00:0" in text
    assert "are free" in text


def test_what_is_there_costs_nothing(work: Workspace) -> None:
    build_networks(replace(work, config=replace(work.config, pool=replace(work.config.pool, size=2))))
    record = StudyRecord(work)
    record.write_trial(0, PARAMETERS, {"validation_accuracy": 0.5, "epoch": 2, "time_total_s": 4.0})
    made = make_plan(work)
    assert (made.num_trials, made.num_finished) == (2, 1)
    assert len(costs_of(made)["teachers and priors"]) == 1  # the other capacity's prior
    done = make_plan(with_study(work, num_trials=1))
    assert (costs_of(done)["teachers and priors"], costs_of(done)["trials"]) == ([], [])
    assert costs_of(done)["students of contenders"] == []  # one trial has nobody to contend with
    assert costs_of(make_plan(with_study(work, contenders=1)))["students of contenders"] == []


def test_stored_timings_are_taken_by_the_epoch_and_the_step(work: Workspace) -> None:
    work = with_study(work, space={**SEARCHED, "generator.capacity": [work.config.generator.capacity]})
    store_network(work, "teachers", 30.0, epochs=10)
    store_network(work, "priors", 70.0, epochs=7)
    earlier = with_study(replace(work, study="earlier"), num_trials=9, scheduler="none")
    for number, seconds in enumerate((4.0, 6.0, 50.0)):
        StudyRecord(earlier).write_trial(number, store_generator(earlier, number, seconds), result(seconds))
    made = make_plan(with_study(work, scheduler="none"))
    jobs = costs_of(made)
    expected = [10.0 * work.config.prior.epochs, *[3.0 * work.config.pool.epochs] * 2]
    assert sorted(jobs["teachers and priors"]) == pytest.approx(sorted(expected))
    assert jobs["trials"] == pytest.approx([6.0] * 3)  # the median
    for more in ({"selection_seeds": 3}, {"selection_images_per_class": (1, 3)}, {"scheduler": "asha"}):
        others = costs_of(make_plan(with_study(work, **{"scheduler": "none", **more})))
        assert 6.0 not in others["trials"], "other students validate at other rungs"
    longer = with_evaluation(with_study(work, scheduler="none"), epochs=20)
    assert 6.0 not in costs_of(make_plan(longer))["trials"], "other students validate"
    assert made.num_stored == 3


def test_a_trials_cost_is_that_of_the_generator_which_it_made_itself(work: Workspace) -> None:
    work = with_study(work, scheduler="none")
    config, record = work.config, StudyRecord(work)
    record.write_trial(0, {**PARAMETERS, "generator.capacity": config.generator.capacity}, result(100.0))
    assert StoredTimings(work).trial_epoch(config) is None, "its generator isn't there any more"
    record.write_trial(1, store_generator(work, 1, 8.0), result(0.0))
    assert StoredTimings(work).trial_epoch(config) is None, "it found its generator, and validated it"
    record.write_trial(2, store_generator(work, 2, 8.0), result(100.0, epoch=1))
    assert StoredTimings(work).trial_epoch(config) is None, "it was stopped"
    others = replace(work, study="others", dataset=replace(work.dataset, digest="1" * 16))
    StudyRecord(others).write_trial(0, store_generator(others, 3, 8.0), result(100.0))
    assert StoredTimings(work).trial_epoch(config) is None, "its data were others"
    record.write_trial(4, store_generator(work, 4, 30.0), result(20.0))
    assert StoredTimings(work).trial_epoch(config) == 15.0, "it was interrupted once, and its row is of what came then"


def test_a_students_cost_is_that_of_the_same_recipe_on_the_same_data(work: Workspace) -> None:
    recipe = work.config.evaluation.recipe("on_the_fly", 1)
    same = {
        "dataset": work.dataset.name,
        "data_fingerprint": work.dataset.digest,
        "ipc": 2,
        "architecture": tiny.ARCHITECTURE,
        "budget_fingerprint": fingerprint(recipe),
        "optimiser_steps": 4,
        "wall_seconds": 2.0,
    }
    others = (replace(recipe, batch_size=3), replace(recipe, labels="soft"), replace(recipe, epochs=9))
    dear = [{"budget_fingerprint": fingerprint(other)} for other in others]
    dear += [{"data_fingerprint": "1" * 16}, {"protocol": "fixed"}, {"ipc": 1}, {"architecture": "convnet3"}]
    rows = [evaluation(**same), *(evaluation(**{**same, "wall_seconds": 400.0, **changes}) for changes in dear)]
    Writer(work.config.storage.root).append_evaluations(rows)
    timings = StoredTimings(work)
    assert timings.student(tiny.ARCHITECTURE, 2, "on_the_fly", recipe) == 0.5
    assert timings.student(tiny.ARCHITECTURE, 2, "on_the_fly", others[1]) == 100.0
    assert timings.student(tiny.ARCHITECTURE, 2, "on_the_fly", replace(recipe, batch_size=2)) is None
    work = with_study(with_evaluation(work, labels="soft"), num_trials=2, contender_seeds=2)
    contending = costs_of(make_plan(work))["students of contenders"]
    assert contending == [2.0] * 4, "they have hard labels, whatever those of the evaluation have"


def test_plan_of_a_searched_space_has_every_pool_and_prior_and_each_kind_of_step(
    work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = {
        **SEARCHED,
        "pool.num_snapshots": [1, 2],
        "prior.learning_rate": [1e-3, 2e-3],
        "matching.kind": ["logits", "features"],
    }
    probed: list[str] = []
    epoch = Probe._epoch

    def note(probe: Probe, key: tuple[str, str], *arguments: Any) -> float:
        probed.append(key[0])
        return epoch(probe, key, *arguments)

    monkeypatch.setattr(Probe, "_epoch", note)
    jobs = costs_of(make_plan(with_study(work, space=space)))
    assert len(jobs["teachers and priors"]) == 2 * 2 + 2 * 2
    # Teachers of one kind, and priors and trials of two capacities, the latter of two kinds of matching.
    assert len(set(probed)) == 1 + 2 + 2 * 2


def test_plan_says_what_is_too_large_and_leaves_it_out(work: Workspace) -> None:
    size = generator_bytes(replace(work.config.generator, capacity=6), work.dataset)
    made = make_plan(with_study(work, max_generator_bytes=size))
    assert len(costs_of(made)["teachers and priors"]) == 2 + 1
    assert "1 of the 2 generators of the space are larger" in "\n".join(made.lines(datetime(2026, 1, 2)))


def test_timings_of_other_data_or_other_steps_are_not_taken(work: Workspace) -> None:
    store_network(work, "priors", 70.0, epochs=7)
    store_network(work, "teachers", 30.0, epochs=10)
    capacity = work.config.generator.capacity
    config = work.config
    assert StoredTimings(work).prior_epoch(config) == 10.0
    assert StoredTimings(work).prior_epoch(config.with_fields({"generator.capacity": capacity + 1})) is None
    assert StoredTimings(work).teacher_epoch(config, tiny.ARCHITECTURE) == 3.0
    assert StoredTimings(work).teacher_epoch(config, "convnet3") is None
    assert StoredTimings(work).trial_epoch(config) is None
    others = replace(work, dataset=replace(work.dataset, digest="1" * 16))
    assert StoredTimings(others).prior_epoch(config) is None
    assert StoredTimings(work).prior_epoch(config.with_fields({"prior.batch_size": 2})) is None


def test_probe_measures_every_stage_and_keeps_nothing(work: Workspace, tmp_path: Path) -> None:
    probe = Probe(work, 1)
    config = work.config.with_fields({"generator.capacity": 8})
    for seconds in (
        probe.teacher_epoch(config, tiny.ARCHITECTURE),
        probe.prior_epoch(config),
        probe.matching_epoch(config),
        probe.student(tiny.ARCHITECTURE, 2, "on_the_fly", 8, 100),
        probe.student(tiny.ARCHITECTURE, 2, "real_fixed", 8, 100),
    ):
        assert 0 < seconds < 100
    assert probe.prior_epoch(config) == probe.prior_epoch(config)  # once
    assert not list(tmp_path.rglob("*.*"))


def test_trial_that_never_fits_is_refused_as_a_run_refuses_it(work: Workspace) -> None:
    with pytest.raises(ResourceError, match="a trial can never be placed"):
        make_plan(with_study(work, cpus_per_worker=3))


def test_machine_without_the_memory_is_refused(work: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "free_memory", lambda: 1_000_000)
    with pytest.raises(ResourceError, match=r"this machine has .* of memory free, and 2 workers need at least"):
        make_plan(work)


def test_study_of_another_configuration_is_refused(work: Workspace) -> None:
    StudyRecord(work).open()
    with pytest.raises(ConfigError, match="began with another configuration"):
        make_plan(with_study(work, seed=1))


def test_jobs_are_packed_into_slots_in_their_order() -> None:
    assert makespan([], 2) == 0.0
    assert makespan([3.0, 2.0, 2.0], 1) == 7.0
    assert makespan([3.0, 2.0, 2.0], 2) == 4.0
    assert makespan([1.0], 4) == 1.0


def test_a_scheduler_that_stops_trials_saves_their_epochs(work: Workspace) -> None:
    config = replace(work.config, matching=replace(work.config.matching, epochs=27))
    epochs = {
        name: expected_epochs(replace(config, study=replace(config.study, scheduler=name)), 30)
        for name in ("asha", "hyperband", "median", "none")
    }
    assert epochs["none"] == 27.0
    assert 1.0 < epochs["asha"] < epochs["hyperband"] < 27.0
    assert epochs["asha"] < epochs["median"] < 27.0
    assert expected_epochs(config, 1) == 27.0
