from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dim_ray.config import NetworksConfig, Precision, fingerprint
from dim_ray.core.teachers.online import OnlinePool
from dim_ray.core.teachers.pool import StoredPool
from dim_ray.core.training.ports import Ports, SilentReporter, SingleWorker, State
from dim_ray.core.training.random import stream
from dim_ray.pipeline import checkpoints, teachers
from dim_ray.pipeline.checkpoints import checkpointer
from dim_ray.pipeline.teachers import (
    build_teachers,
    group_teachers,
    missing_teachers,
    open_pool,
    pool_parts,
    pool_teachers,
    read_teacher,
    teacher_fingerprint,
    teachers_cost,
)
from dim_ray.pipeline.workspace import Workspace
from tests.helpers import tiny
from tests.helpers.small import file_bytes, make_work
from tests.helpers.tiny import InterruptedStageError, RecordingReporter


def with_pool(work: Workspace, **changes: Any) -> Workspace:
    return replace(work, config=replace(work.config, pool=replace(work.config.pool, **changes)))


def test_pool_of_two_is_the_first_two_of_a_pool_of_eight(tmp_path: Path) -> None:
    two, eight = (with_pool(make_work(tmp_path), size=size) for size in (2, 8))
    fingerprints = [teacher_fingerprint(eight, number) for number in range(8)]
    assert [teacher_fingerprint(two, number) for number in range(2)] == fingerprints[:2]
    assert len(set(fingerprints)) == 8


def test_teachers_of_a_small_pool_are_not_built_again_for_a_larger_one(tmp_path: Path) -> None:
    two = make_work(tmp_path)
    assert missing_teachers(two) == [0, 1]
    for number in missing_teachers(two):
        build_teachers(two, [number], SilentReporter())
    assert missing_teachers(two) == []
    assert missing_teachers(with_pool(two, size=4)) == [2, 3]


def test_where_nothing_is_matched_no_teacher_is_missing(tmp_path: Path) -> None:
    work = make_work(tmp_path)
    config = work.config
    assert list(pool_teachers(config)) == [0, 1]
    alone = replace(config, matching=replace(config.matching, kind="none"))
    assert list(pool_teachers(alone)) == []
    assert missing_teachers(replace(work, config=alone)) == []


def test_online_no_teacher_is_missing(tmp_path: Path) -> None:
    work = with_pool(make_work(tmp_path), kind="online")
    assert list(pool_teachers(work.config)) == []
    assert missing_teachers(work) == []


@pytest.mark.parametrize("rank", [0, 1])
def test_online_pool_is_made_of_the_configuration(tmp_path: Path, rank: int) -> None:
    architectures = ("convnet3_w8", "convnet3_w4")
    work = with_pool(make_work(tmp_path, networks=NetworksConfig(teachers=architectures)), kind="online")
    pool = open_pool(work, tiny.OneOfSeveral(rank, 2))
    direct = OnlinePool(work.config.pool, architectures, work.dataset, steps_per_epoch=tiny.STEPS_PER_EPOCH, rank=rank)
    assert pool is not None
    for step in range(tiny.STEPS_PER_EPOCH + 1):
        for ours, theirs in zip(pool.draw(step, 2, stream(0)), direct.draw(step, 2, stream(0)), strict=True):
            assert tiny.equal_states(ours.tensors, theirs.tensors)


@pytest.mark.parametrize(("memory_gib", "is_on_device"), [(0.0, False), (1.0, True), (None, True)])
def test_stored_pool_has_the_device_memory_that_is_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_gib: float | None, is_on_device: bool
) -> None:
    monkeypatch.setattr(teachers, "device_limit", lambda gib, device: None if gib is None else int(gib * 2**30))
    work = with_pool(make_work(tmp_path), device_memory_gib=memory_gib)
    for number in missing_teachers(work):
        build_teachers(work, [number], SilentReporter())
    pool = open_pool(work, SingleWorker())
    assert pool is not None
    asked: list[int] = []

    def choices() -> torch.Generator:
        asked.append(1)
        return stream(0)

    pool.prefetch(1, choices)
    assert not asked if is_on_device else asked


@pytest.mark.parametrize("kind", ["stored", "online"])
def test_networks_do_not_depend_on_the_device_memory(tmp_path: Path, kind: str) -> None:
    work = with_pool(make_work(tmp_path), kind=kind)
    other = with_pool(work, device_memory_gib=0.5)
    assert fingerprint(pool_parts(other)) == fingerprint(pool_parts(work))
    assert teacher_fingerprint(other, 0) == teacher_fingerprint(work, 0)


def test_identity_of_an_online_pool_is_that_from_before_there_were_fields_that_say_where(tmp_path: Path) -> None:
    work = with_pool(make_work(tmp_path), kind="online")
    recipe = work.config.pool.recipe()
    later = ("place", "added")
    values = {
        field.name: getattr(recipe, field.name)
        for field in fields(recipe)
        if not any(field.metadata.get(mark) for mark in later)
    }
    assert not {"device_memory_gib", "online_mode"} & {*values}
    assert fingerprint(pool_parts(work)) == fingerprint([values, work.config.networks.teachers])


@pytest.mark.parametrize("kind", ["stored", "online"])
def test_where_nothing_is_matched_there_is_no_pool(tmp_path: Path, kind: str) -> None:
    work = with_pool(make_work(tmp_path), kind=kind)
    work = replace(work, config=replace(work.config, matching=replace(work.config.matching, kind="none")))
    assert open_pool(work, SingleWorker()) is None


@pytest.mark.parametrize(
    ("precision", "has_bfloat16", "expected"),
    [
        ("float32", True, "float32"),
        ("bfloat16", False, "bfloat16"),
        ("auto", True, "bfloat16"),
        ("auto", False, "float32"),
    ],
)
def test_card_says_in_which_precision_a_teacher_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision, has_bfloat16: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": has_bfloat16})
    work = with_pool(make_work(tmp_path), precision=precision)
    build_teachers(work, [0], SilentReporter())
    assert work.artifacts.read_card("teachers", teacher_fingerprint(work, 0))["precision"] == expected


def test_teacher_that_is_there_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = make_work(tmp_path)
    build_teachers(work, [0], SilentReporter())
    before = file_bytes(work, "teachers")
    monkeypatch.setattr(teachers, "run_epochs", lambda *args: pytest.fail("was trained again"))
    build_teachers(work, [0], SilentReporter())
    assert file_bytes(work, "teachers") == before


def test_teacher_is_another_one_for_other_data_recipe_or_architecture(tmp_path: Path) -> None:
    work = make_work(tmp_path)
    others = [
        replace(work, dataset=replace(work.dataset, digest="1" * 16)),
        with_pool(work, epochs=3),
        with_pool(work, snapshot_spacing="logarithmic"),
        with_pool(work, seed=9),
        replace(work, config=replace(work.config, networks=NetworksConfig(teachers=("convnet3_w4",)))),
    ]
    fingerprints = [teacher_fingerprint(w, 0) for w in (work, *others)]
    assert len(set(fingerprints)) == len(fingerprints)


def test_teacher_does_not_depend_on_what_it_is_used_for(tmp_path: Path) -> None:
    work = make_work(tmp_path)
    config = work.config
    used = replace(
        work,
        study="another",
        config=replace(
            config,
            generator=replace(config.generator, capacity=9),
            prior=replace(config.prior, epochs=9),
            matching=replace(config.matching, weight=0.9, teachers_per_step=2),
            pool=replace(config.pool, size=5, online_steps=3),
            study=replace(config.study, workers_per_trial=2),
            networks=replace(config.networks, students=("resnet10",)),
        ),
    )
    assert teacher_fingerprint(used, 1) == teacher_fingerprint(work, 1)


def test_architectures_are_dealt_to_teachers_in_turn(tmp_path: Path) -> None:
    networks = NetworksConfig(teachers=("convnet3_w8", "convnet3_w4"))
    work = make_work(tmp_path, networks=networks)
    for number in range(2):
        build_teachers(work, [number], SilentReporter())
    assert [read_teacher(work.artifacts, teacher_fingerprint(work, number)).architecture for number in range(2)] == [
        "convnet3_w8",
        "convnet3_w4",
    ]


def test_loaded_teacher_has_the_snapshots_that_were_trained(tmp_path: Path) -> None:
    work = make_work(tmp_path)
    build_teachers(work, [1], SilentReporter())
    [direct] = tiny.train_teachers(work.config.pool, [1], tiny.ARCHITECTURE, work.dataset, Ports())
    loaded = read_teacher(work.artifacts, teacher_fingerprint(work, 1))
    assert list(loaded.steps) == list(direct.steps)
    assert len(loaded.snapshots) == work.config.pool.num_snapshots
    assert all(map(tiny.equal_states, loaded.snapshots, direct.snapshots))
    assert loaded.validation_accuracy == direct.validation_accuracy
    StoredPool([loaded], work.dataset)


def test_teacher_is_trained_and_read_with_its_own_normalisation(tmp_path: Path) -> None:
    usual = make_work(tmp_path)
    work = with_pool(usual, normalisation="dim_signed")
    for own in (usual, work):
        build_teachers(own, [0], SilentReporter())
    dataset = usual.dataset.normalised("dim_signed")
    [direct] = tiny.train_teachers(work.config.pool, [0], tiny.ARCHITECTURE, dataset, Ports())
    loaded = read_teacher(work.artifacts, teacher_fingerprint(work, 0))
    assert all(map(tiny.equal_states, loaded.snapshots, direct.snapshots))
    assert loaded.normalisation == direct.normalisation == "dim_signed"
    other = read_teacher(usual.artifacts, teacher_fingerprint(usual, 0))
    assert other.normalisation == "measured"
    assert not tiny.equal_states(loaded.snapshots[-1], other.snapshots[-1])


def test_interrupted_teacher_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = make_work(tmp_path / "whole")
    build_teachers(whole, [0], SilentReporter())
    halved = make_work(tmp_path / "halved")
    halved = replace(
        halved, config=replace(halved.config, storage=replace(halved.config.storage, checkpoint_seconds=0.0))
    )
    with pytest.raises(InterruptedStageError):
        build_teachers(halved, [0], RecordingReporter(stop_at=1))
    assert missing_teachers(halved) == [0, 1]
    reporter = RecordingReporter()
    build_teachers(halved, [0], reporter)
    assert reporter.steps == [1, 2]  # the epoch that the checkpoint ends with, and the rest
    assert file_bytes(halved, "teachers") == file_bytes(whole, "teachers")
    assert not list((tmp_path / "halved" / "studies").rglob("*.safetensors"))


MIXED = NetworksConfig(teachers=("convnet3_w4", "mlp_w8"))


def with_storage(work: Workspace) -> Workspace:
    """Returns the workspace with checkpoints after every step."""
    return replace(work, config=replace(work.config, storage=replace(work.config.storage, checkpoint_seconds=0.0)))


def groups(work: Workspace, *, device_type: str = "cpu", num_slots: int = 1) -> list[list[int]]:
    return group_teachers(work, missing_teachers(work), device_type=device_type, num_slots=num_slots)


@pytest.mark.parametrize("steps", [(3, None), (3, 6)])
def test_teachers_at_once_begin_anew_where_another_driver_changed_one_of_their_states(steps: tuple[int, ...]) -> None:
    members = [tiny.MemoryCheckpointer() for _ in steps]
    for member, number in zip(members, steps, strict=True):
        if number is not None:
            member.save(State(tensors={"weight": torch.zeros(2)}, meta={"steps": number}))
    assert teachers._Stacked(members).load() is None


def test_groups_are_of_one_architecture_dearest_first(tmp_path: Path) -> None:
    work = with_pool(make_work(tmp_path, networks=MIXED), size=7, teachers_at_once=3)
    dear, cheap = (teachers_cost(work, [number]) for number in (0, 1))
    assert dear > cheap
    assert dear == work.config.pool.epochs
    assert groups(work) == [[0, 2, 4], [6], [1, 3, 5]]
    assert teachers_cost(work, [0, 2, 4]) == 3 * dear


def test_by_default_groups_are_of_four_where_ensembles_may_pay_and_leave_no_slot_empty(tmp_path: Path) -> None:
    large = with_pool(make_work(tmp_path, networks=NetworksConfig(teachers=("convnet3",))), size=9, batch_size=64)
    assert groups(large) == [[number] for number in range(9)]
    work = with_pool(make_work(tmp_path), size=9)
    assert groups(work) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert groups(work, device_type="cuda") == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert groups(work, device_type="cuda", num_slots=4) == [[0, 1], [2, 3], [4, 5], [6, 7], [8]]


def assert_same_teachers(found: Workspace, expected: Workspace, numbers: list[int]) -> None:
    for number in numbers:
        one, other = (
            read_teacher(found.artifacts, teacher_fingerprint(found, number)),
            read_teacher(expected.artifacts, teacher_fingerprint(expected, number)),
        )
        assert one.steps == other.steps
        assert one.architecture == other.architecture
        for ours, theirs in zip(one.snapshots, other.snapshots, strict=True):
            torch.testing.assert_close(dict(ours), dict(theirs), rtol=1e-3, atol=1e-4)


def test_teachers_at_once_are_stored_as_those_of_one_by_one(tmp_path: Path) -> None:
    together = with_pool(make_work(tmp_path / "together"), size=3, teachers_at_once=3)
    alone = with_pool(make_work(tmp_path / "alone"), size=3)
    reporter = RecordingReporter()
    build_teachers(together, [0, 1, 2], reporter)
    assert missing_teachers(together) == []
    assert reporter.steps == list(range(1, together.config.pool.epochs + 1))
    for number in range(3):
        build_teachers(alone, [number], SilentReporter())
    assert_same_teachers(together, alone, [0, 1, 2])


@pytest.mark.parametrize("first", [[0, 1, 2], [0]], ids=["at once", "one of them"])
@pytest.mark.parametrize("then", [[[0, 1, 2]], [[0], [1, 2]], [[0], [1], [2]]], ids=str)
def test_interrupted_teachers_go_on_in_whatever_groups_they_come_again(
    tmp_path: Path, first: list[int], then: list[list[int]]
) -> None:
    work = with_pool(with_storage(make_work(tmp_path / "stopped")), size=3, teachers_at_once=3, epochs=3)
    with pytest.raises(InterruptedStageError):
        build_teachers(work, first, RecordingReporter(stop_at=2))
    steps_per_epoch = len(work.dataset.train) // work.config.pool.batch_size
    for number in first:
        saved = checkpointer(work, teacher_fingerprint(work, number)).load()
        assert saved is not None
        assert saved.meta["steps"] == 2 * steps_per_epoch
    for group in then:
        build_teachers(work, group, SilentReporter())
    whole = with_pool(make_work(tmp_path / "whole"), size=3, epochs=3)
    for number in range(3):
        build_teachers(whole, [number], SilentReporter())
    assert_same_teachers(work, whole, [0, 1, 2])


class Minutes(RecordingReporter):
    """Lets a minute pass with each epoch."""

    def __init__(self, clock: SimpleNamespace, *, stop_at: int | None = None) -> None:
        super().__init__(stop_at=stop_at)
        self._clock = clock

    def report(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        self._clock.now += 60.0
        super().report(step, total, metrics)


ALONE, AT_ONCE = [[0], [1], [2]], [[0, 1, 2]]


@pytest.mark.parametrize(
    ("first", "then", "seconds"),
    [
        (ALONE, AT_ONCE, 60.0 + 120.0 / 3),
        (AT_ONCE, ALONE, 60.0 / 3 + 120.0),
        (AT_ONCE, AT_ONCE, 60.0 / 3 + 120.0 / 3),
        (ALONE, ALONE, 60.0 + 120.0),
    ],
    ids=["alone, then at once", "at once, then alone", "at once", "alone"],
)
def test_seconds_of_a_teacher_are_its_share_of_each_group_that_it_was_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: list[list[int]], then: list[list[int]], seconds: float
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=lambda: clock.now))
    work = with_pool(with_storage(make_work(tmp_path)), size=3, teachers_at_once=3, epochs=3)
    for group in first:
        with pytest.raises(InterruptedStageError):  # in the second minute, which isn't in the state
            build_teachers(work, group, Minutes(clock, stop_at=2))
    for group in then:
        build_teachers(work, group, Minutes(clock))
    cards = [work.artifacts.read_card("teachers", teacher_fingerprint(work, number)) for number in range(3)]
    assert [card["wall_seconds"] for card in cards] == pytest.approx([seconds] * 3)
