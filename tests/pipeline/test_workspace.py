from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dim_ray.core.ports import SingleWorker, State
from dim_ray.errors import ArtifactError
from dim_ray.pipeline.workspace import StoredCheckpointer, checkpoint_key, checkpointer, shared_checkpointer
from dim_ray.store.artifacts import ArtifactStore
from tests.core.tiny import equal_states
from tests.pipeline.small import make_work

STATE = State(tensors={"weight": torch.arange(6.0)}, meta={"steps": 3})


class SecondWorker(SingleWorker):
    rank = 1
    num_workers = 2


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
    assert checkpointer(make_work(tmp_path, study="theirs"), "a" * 16).load() is None
    assert checkpointer(make_work(tmp_path, study="ours"), "b" * 16).load() is None
    assert (tmp_path / checkpoint_key("ours", "a" * 16)).is_file()


def test_every_worker_loads_and_worker_0_alone_saves(tmp_path: Path) -> None:
    work = make_work(tmp_path)
    first = shared_checkpointer(work, "a" * 16, SingleWorker())
    second = shared_checkpointer(work, "a" * 16, SecondWorker())
    first.save(STATE)
    loaded = second.load()
    assert loaded is not None
    assert equal_states(loaded.tensors, STATE.tensors)
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
    file = tmp_path / "studies/tiny/state.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ArtifactError, match=r"tiny/state\.safetensors"):
        saved.load()
