from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dim_ray.config import StorageConfig
from dim_ray.core.data.dataset import Dataset
from dim_ray.core.training.checkpoint import loads
from dim_ray.core.training.ports import Reporter, SilentReporter, SingleWorker, State
from dim_ray.errors import ArtifactError
from dim_ray.pipeline import checkpoints
from dim_ray.pipeline.checkpoints import StoredCheckpointer, checkpoint_key, checkpointer, shared_checkpointer
from dim_ray.pipeline.generators import distill_generator, generator_fingerprint
from dim_ray.pipeline.priors import build_prior, prior_fingerprint
from dim_ray.pipeline.teachers import build_teachers, teacher_fingerprint
from dim_ray.pipeline.workspace import Workspace, on_device
from dim_ray.store.artifacts import ArtifactStore
from tests.helpers.small import make_work
from tests.helpers.tiny import InterruptedStageError, OneOfSeveral, RecordingReporter, equal_states

STATE = State(tensors={"weight": torch.arange(6.0)}, meta={"steps": 3})


def flushed(saved: StoredCheckpointer) -> State:
    """Waits until what was saved is on the storage, and returns it."""
    loaded = saved.load()
    assert loaded is not None
    return loaded


@pytest.mark.parametrize(
    ("has_gpu", "options", "device"),
    [
        (True, {}, "cuda"),
        (True, {"gpus": 0.5}, "cuda"),
        (True, {"gpus": 0.0}, "cpu"),
        (False, {}, "cpu"),
        (False, {"gpus": 0.5}, "cpu"),
    ],
)
def test_data_are_on_the_gpu_where_there_is_one_that_may_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_gpu: bool, options: dict[str, float], device: str
) -> None:
    chosen, shares = ["cpu"], list[float]()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(Dataset, "to", lambda dataset, device: chosen.append(device) or dataset)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: shares.append(share))
    on_device(make_work(tmp_path), **options)
    assert shares == [0.5] * (has_gpu and options.get("gpus") == 0.5)  # others hold the rest
    assert chosen[-1] == device


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_gpu_gives_the_same_bits_if_asked_to_and_is_fast_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deterministic: bool
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # restored, as are the next two
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(Dataset, "to", lambda dataset, device: dataset)
    work = make_work(tmp_path)
    config = replace(work.config, study=replace(work.config.study, deterministic=deterministic))
    try:
        on_device(replace(work, config=config))
        assert torch.are_deterministic_algorithms_enabled() is deterministic
        assert torch.backends.cudnn.benchmark is not deterministic
    finally:
        torch.use_deterministic_algorithms(mode=False)


def test_save_is_due_when_the_interval_has_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    saved = StoredCheckpointer(ArtifactStore(str(tmp_path)), "state", every_seconds=60.0)
    assert not saved.due()
    now = 160.0
    assert saved.due()
    saved.save(STATE)
    assert not saved.due()
    now = 219.9
    assert not saved.due()
    now = 220.0
    assert saved.due()


def test_state_of_two_studies_and_of_two_artefacts_are_kept_apart(tmp_path: Path) -> None:
    ours = checkpointer(make_work(tmp_path, study="ours"), "a" * 16)
    ours.save(STATE)
    flushed(ours)
    assert checkpointer(make_work(tmp_path, study="theirs"), "a" * 16).load() is None
    assert checkpointer(make_work(tmp_path, study="ours"), "b" * 16).load() is None
    assert (tmp_path / checkpoint_key("ours", "a" * 16)).is_file()


def test_every_worker_loads_and_worker_0_alone_saves(tmp_path: Path) -> None:
    work = make_work(tmp_path, storage=StorageConfig(root=str(tmp_path), checkpoint_seconds=0.0))
    first, second = (shared_checkpointer(work, "a" * 16, OneOfSeveral(rank, 2)) for rank in range(2))
    assert first.due()
    first.save(STATE)
    flushed(first)
    loaded = second.load()
    assert loaded is not None
    assert equal_states(loaded.tensors, STATE.tensors)
    assert loaded.meta == STATE.meta
    second.save(State(tensors={}, meta={"steps": 9}))
    assert not second.due()
    second.clear()
    kept = first.load()
    assert kept is not None
    assert kept.meta == {"steps": 3}


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + bytes([data[-1] ^ 1])])
def test_damaged_state_is_named_and_not_loaded(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    saved = StoredCheckpointer(ArtifactStore(str(tmp_path)), "studies/tiny/state.safetensors", every_seconds=60.0)
    saved.save(STATE)
    flushed(saved)
    file = tmp_path / "studies/tiny/state.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ArtifactError, match=r"tiny/state\.safetensors"):
        saved.load()


class Clock:
    """Stands for the module `time` in one process, whose clock begins anywhere."""

    def __init__(self, now: float, *, tick: float = 0.0) -> None:
        self.now = now
        self._tick = tick

    def monotonic(self) -> float:
        self.now += self._tick
        return self.now


def test_seconds_are_those_of_every_process_that_worked_on_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(5000.0)
    monkeypatch.setattr(checkpoints, "time", clock)

    def open_state(now: float) -> StoredCheckpointer:
        clock.now = now
        return StoredCheckpointer(ArtifactStore(str(tmp_path)), "state", every_seconds=60.0)

    first = open_state(5000.0)
    assert first.load() is None
    assert first.seconds() == 0
    clock.now += 60
    assert first.seconds() == 60
    first.save(STATE)
    clock.now += 10
    assert first.seconds() == 70
    first.save(STATE)
    flushed(first)
    clock.now += 9  # until it is killed: the work of these seconds is lost
    second = open_state(20.0)
    assert second.seconds() == 0
    clock.now += 1  # of reading
    second.load()
    assert second.seconds() == 71
    clock.now += 4
    second.save(STATE)
    flushed(second)
    third = open_state(1000.0)
    third.load()
    clock.now += 2
    assert third.seconds() == 70 + 5 + 2


def test_numbers_that_a_stage_saved_are_not_mixed_with_the_seconds(tmp_path: Path) -> None:
    meta = {"steps": 3, "seconds": "its own", "stage": {"stage": None}}
    artifacts = ArtifactStore(str(tmp_path))
    saved = StoredCheckpointer(artifacts, "state", every_seconds=60.0)
    saved.save(State(tensors={}, meta=meta))
    flushed(saved)
    again = StoredCheckpointer(artifacts, "state", every_seconds=60.0)
    loaded = again.load()
    assert loaded is not None
    assert loaded.meta == meta
    assert again.seconds() >= 0


def build(work: Workspace, kind: str, reporter: Reporter) -> None:
    if kind == "teachers":
        build_teachers(work, [0], reporter)
    elif kind == "priors":
        build_prior(work, reporter, SingleWorker())
    else:
        distill_generator(work, reporter, SingleWorker())


@pytest.mark.parametrize("kind", ["teachers", "priors", "generators"])
def test_card_of_a_resumed_stage_has_the_seconds_before_and_after(
    built: Workspace, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    storage = StorageConfig(root=built.config.storage.root, checkpoint_seconds=0.0)
    config = replace(built.config, storage=storage)
    if kind == "generators":
        config = replace(config, matching=replace(config.matching, seed=99))
    else:  # other teachers and another prior than those that are there
        config = replace(config, pool=replace(config.pool, seed=99), prior=replace(config.prior, seed=99))
    work = replace(built, config=config)
    identity = {
        "teachers": teacher_fingerprint(work, 0),
        "priors": prior_fingerprint(work),
        "generators": generator_fingerprint(work),
    }[kind]

    monkeypatch.setattr(checkpoints, "time", Clock(500.0, tick=10.0))
    with pytest.raises(InterruptedStageError):
        build(work, kind, RecordingReporter(stop_at=1))
    data = work.artifacts.read_bytes(checkpoint_key(work.study, identity))
    assert data is not None
    before = loads(data, "the state")[1]["seconds"]
    assert before >= 10
    monkeypatch.setattr(checkpoints, "time", Clock(3.0))  # stands still in the second process
    build(work, kind, SilentReporter())
    assert work.artifacts.read_card(kind, identity)["wall_seconds"] == before
