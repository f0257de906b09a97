"""The contract of every Checkpointer.

An implementation is a function that makes one for a folder. A second one for the same folder stands for a process that
continues the work of a killed one. Add it to KEEPING, or to FORGETTING if it keeps nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dim_ray.core.training.ports import Checkpointer, NoCheckpointer, State
from dim_ray.pipeline.checkpoints import StoredCheckpointer, checkpoint_key
from dim_ray.store.artifacts import ArtifactStore
from tests.helpers import s3
from tests.helpers.tiny import MemoryCheckpointer, equal_states

Make = Callable[[Path], Checkpointer]


class FileCheckpointer(MemoryCheckpointer):
    """A MemoryCheckpointer whose memory outlives it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.read_bytes() if path.exists() else None)
        self._path = path

    def save(self, state: State) -> None:
        super().save(state)
        assert self.data is not None
        self._path.write_bytes(self.data)

    def clear(self) -> None:
        super().clear()
        self._path.unlink(missing_ok=True)


def stored(root: str) -> StoredCheckpointer:
    return StoredCheckpointer(ArtifactStore(root), checkpoint_key("tiny", "a" * 16), every_seconds=60.0)


@functools.cache
def _bucket(folder: Path) -> str:
    return s3.new_bucket()


KEEPING: dict[str, Make] = {
    "MemoryCheckpointer": lambda folder: FileCheckpointer(folder / "state"),
    "StoredCheckpointer": lambda folder: stored(str(folder)),
    "StoredCheckpointer on an object store": lambda folder: stored(s3.uri_at(s3.server_port(), _bucket(folder))),
}
FORGETTING: dict[str, Make] = {"NoCheckpointer": lambda folder: NoCheckpointer()}


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=[*KEEPING, *FORGETTING])
def make(request: pytest.FixtureRequest) -> Make:
    return {**KEEPING, **FORGETTING}[request.param]


@pytest.fixture(params=KEEPING)
def make_keeping(request: pytest.FixtureRequest) -> Make:
    return KEEPING[request.param]


@pytest.fixture(params=FORGETTING)
def make_forgetting(request: pytest.FixtureRequest) -> Make:
    return FORGETTING[request.param]


def tensors(number: int = 0) -> dict[str, Tensor]:
    return {
        "network.weight": torch.randn(3, 4, generator=torch.Generator().manual_seed(number)),
        "network.counter": torch.tensor(7 + number),
        "optimizer.0.step": torch.tensor(3.0),
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "empty": torch.zeros(0, 3),
        "bytes": torch.arange(256, dtype=torch.uint8),
    }


def test_there_is_nothing_before_the_first_save(make: Make, tmp_path: Path) -> None:
    assert make(tmp_path).load() is None


def test_asking_whether_a_save_is_due_saves_nothing(make: Make, tmp_path: Path) -> None:
    checkpointer = make(tmp_path)
    assert all(isinstance(checkpointer.due(), bool) for _ in range(3))
    assert checkpointer.load() is None


def test_clearing_is_harmless_when_there_is_nothing(make: Make, tmp_path: Path) -> None:
    checkpointer = make(tmp_path)
    checkpointer.clear()
    checkpointer.clear()
    assert checkpointer.load() is None


def test_cleared_state_is_gone_and_another_may_be_saved(make: Make, tmp_path: Path) -> None:
    checkpointer = make(tmp_path)
    checkpointer.save(State(tensors=tensors(), meta={"steps": 1}))
    checkpointer.clear()
    assert checkpointer.load() is None
    assert make(tmp_path).load() is None
    checkpointer.save(State(tensors=tensors(), meta={"steps": 2}))
    kept = checkpointer.load()
    assert (kept is None) == (make in FORGETTING.values())


def test_checkpointer_that_keeps_nothing_is_never_due(make_forgetting: Make, tmp_path: Path) -> None:
    checkpointer = make_forgetting(tmp_path)
    checkpointer.save(State(tensors=tensors(), meta={"steps": 1}))
    assert checkpointer.load() is None
    assert not checkpointer.due()


@pytest.mark.parametrize("is_reopened", [False, True])
def test_state_is_restored_bit_by_bit_with_its_meta(make_keeping: Make, tmp_path: Path, is_reopened: bool) -> None:
    checkpointer = make_keeping(tmp_path)
    checkpointer.save(State(tensors=tensors(), meta={"steps": 12, "seconds": 0.1, "names": ["a", None]}))
    loaded = checkpointer.load()
    if is_reopened:
        loaded = make_keeping(tmp_path).load()
    assert loaded is not None
    assert equal_states(loaded.tensors, tensors())
    assert loaded.meta == {"steps": 12, "seconds": 0.1, "names": ["a", None]}


def test_last_save_counts(make_keeping: Make, tmp_path: Path) -> None:
    checkpointer = make_keeping(tmp_path)
    checkpointer.save(State(tensors={**tensors(1), "gone": torch.zeros(2)}, meta={"steps": 1, "gone": True}))
    checkpointer.save(State(tensors=tensors(2), meta={"steps": 2}))
    for loaded in (checkpointer.load(), make_keeping(tmp_path).load()):
        assert loaded is not None
        assert equal_states(loaded.tensors, tensors(2))
    assert loaded.meta == {"steps": 2}


def test_kept_state_is_a_copy(make_keeping: Make, tmp_path: Path) -> None:
    checkpointer = make_keeping(tmp_path)
    own = tensors()
    checkpointer.save(State(tensors=own, meta={"steps": 1}))
    for tensor in own.values():
        tensor.zero_()
    loaded = checkpointer.load()
    assert loaded is not None
    assert equal_states(loaded.tensors, tensors())
    for tensor in loaded.tensors.values():
        tensor.zero_()
    again = checkpointer.load()
    assert again is not None
    assert equal_states(again.tensors, tensors())


def test_state_without_tensors_is_a_state(make_keeping: Make, tmp_path: Path) -> None:
    checkpointer = make_keeping(tmp_path)
    checkpointer.save(State(tensors={}, meta={"steps": 0}))
    loaded = checkpointer.load()
    assert loaded is not None
    assert (dict(loaded.tensors), loaded.meta) == ({}, {"steps": 0})
