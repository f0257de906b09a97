"""Checkpoints of a storage that is slow, refuses, or loses its process."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dim_ray.core.data.splits import Split
from dim_ray.core.training.loop import Losses, Stage, run_epochs
from dim_ray.core.training.ports import Checkpointer, NoCheckpointer, Ports, State
from dim_ray.errors import DivergedError, StorageError
from dim_ray.pipeline.checkpoints import StoredCheckpointer
from dim_ray.pipeline.uploads import UploadTimes
from dim_ray.store.artifacts import ArtifactStore
from tests.helpers.disks import after, fill, remount, small_disk

KEY = "studies/tiny/checkpoints/state.safetensors"
QUICK = UploadTimes(pauses_seconds=(0.02,), last_seconds=10.0)


class SlowStore(ArtifactStore):
    """Takes so many seconds for a write."""

    def __init__(self, root: str, seconds: float) -> None:
        super().__init__(root)
        self._seconds = seconds
        self.num_writes = 0

    def write_bytes(self, key: str, data: bytes, *, is_patient: bool = True) -> str:
        self.num_writes += 1
        time.sleep(self._seconds)
        return super().write_bytes(key, data, is_patient=is_patient)


def state(steps: int, size: int = 16) -> State:
    """A state whose numbers all say how old it is."""
    return State(tensors={"weight": torch.full((size,), float(steps))}, meta={"steps": steps})


def stored(root: Path) -> int | None:
    """Reads the state as another process does, and makes sure that it is whole."""
    loaded = StoredCheckpointer(ArtifactStore(str(root)), KEY, every_seconds=0.0).load()
    if loaded is None:
        return None
    assert loaded.tensors["weight"].unique().tolist() == [loaded.meta["steps"]]
    return int(loaded.meta["steps"])


def train(
    checkpointer: Checkpointer, *, epochs: int = 3, step_seconds: float = 0.0, bad_at: int | None = None
) -> float:
    """Count steps, four per epoch, and return how long it took."""
    weight = torch.zeros(16)

    class Counting(Stage):
        name, batch_size, seeds = "counting", 2, (0,)

        def __init__(self) -> None:
            self.epochs = epochs

        def step(self, number: int, indices: Tensor) -> Losses:
            time.sleep(step_seconds)
            weight.add_(1)
            return {"loss": torch.tensor(math.nan if number == bad_at else 1.0)}

        def state(self) -> Mapping[str, Tensor]:
            return {"weight": weight}

        def load_state(self, tensors: Mapping[str, Tensor]) -> None:
            weight.copy_(tensors["weight"])

    began = time.monotonic()
    split = Split(images=torch.zeros(8, 1, 1, 1, dtype=torch.uint8), labels=torch.zeros(8, dtype=torch.int64))
    run_epochs(Counting(), split, Ports(checkpointer=checkpointer))
    return time.monotonic() - began


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


def test_slow_storage_does_not_slow_the_steps(tmp_path: Path) -> None:
    store = SlowStore(str(tmp_path), 2.0)
    saved = StoredCheckpointer(store, KEY, every_seconds=0.05)
    without = train(NoCheckpointer(), epochs=20, step_seconds=0.01)
    seconds = train(saved, epochs=20, step_seconds=0.01)
    assert seconds < without + 1.0, "less than the time of a single write"
    assert store.num_writes >= 1
    saved.clear()
    assert stored(tmp_path) is None


def test_cleared_state_of_a_slow_storage_never_comes_back(tmp_path: Path) -> None:
    saved = StoredCheckpointer(SlowStore(str(tmp_path), 0.3), KEY, every_seconds=0.0)
    saved.save(state(1))
    time.sleep(0.1)
    saved.save(state(2))
    saved.clear()
    assert stored(tmp_path) is None
    time.sleep(0.5)
    assert stored(tmp_path) is None


def test_diverged_training_ends_with_its_last_good_state_on_a_slow_storage(tmp_path: Path) -> None:
    with (
        pytest.raises(DivergedError, match="last good state, of step 8, is kept"),
        StoredCheckpointer(SlowStore(str(tmp_path), 0.3), KEY, every_seconds=60.0) as saved,
    ):
        train(saved, bad_at=11)
    assert stored(tmp_path) == 8


def test_training_that_diverged_does_not_say_that_a_state_is_kept_which_is_refused(disk: Path) -> None:
    fill(disk)
    store, times = ArtifactStore(str(disk)), UploadTimes(pauses_seconds=(0.02,), last_seconds=0.1)
    with (
        pytest.raises(StorageError, match="the disk is full"),
        StoredCheckpointer(store, KEY, every_seconds=60.0, times=times) as saved,
    ):
        train(saved, bad_at=11)


def test_training_goes_on_while_the_disk_is_full_and_its_state_is_there_afterwards(disk: Path) -> None:
    free = fill(disk)
    with StoredCheckpointer(ArtifactStore(str(disk)), KEY, every_seconds=0.0, times=QUICK) as saved:
        train(saved)  # no error
        assert stored(disk) is None
        free()
        assert saved.load() is not None
    assert stored(disk) == 12


def test_training_that_fails_while_the_disk_is_full_leaves_its_state_once_it_is_freed(disk: Path) -> None:
    saved = StoredCheckpointer(ArtifactStore(str(disk)), KEY, every_seconds=0.0, times=QUICK)

    def fail() -> None:
        with saved:
            train(saved)
            raise ZeroDivisionError

    with after(0.5, fill(disk)), pytest.raises(ZeroDivisionError):
        fail()
    assert stored(disk) == 12


def test_state_is_written_after_the_disk_was_read_only(disk: Path) -> None:
    saved = StoredCheckpointer(ArtifactStore(str(disk)), KEY, every_seconds=0.0, times=QUICK)
    saved.save(state(1))
    saved.load()
    remount(disk, "ro")
    with after(0.5, lambda: remount(disk, "rw")):
        saved.save(state(2))
        time.sleep(0.2)
        assert stored(disk) == 1
        loaded = saved.load()
    assert loaded is not None
    assert stored(disk) == 2


def test_state_is_written_after_a_file_was_in_the_place_of_the_root(tmp_path: Path) -> None:
    root, away = tmp_path / "root", tmp_path / "away"
    saved = StoredCheckpointer(ArtifactStore(str(root)), KEY, every_seconds=0.0, times=QUICK)
    saved.save(state(1))
    saved.load()
    root.rename(away)
    root.touch()

    def bring_back() -> None:
        root.unlink()
        away.rename(root)

    with after(0.5, bring_back):
        saved.save(state(2))
        saved.load()
    assert stored(root) == 2


def test_storage_is_given_up_after_five_intervals_and_the_stated_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "root").touch()  # a file in its place
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for every_seconds, give_up_seconds in ((1.0, 600.0), (3600.0, 5 * 3600.0)):
        store, times = ArtifactStore(str(tmp_path / "root")), UploadTimes(last_seconds=0.0)
        saved = StoredCheckpointer(store, KEY, every_seconds, times)
        saved.save(state(1))
        with pytest.raises(StorageError):  # waits until the first refusal is noted
            saved.load()
        now += give_up_seconds - 1
        saved.save(state(2))
        now += 1
        with pytest.raises(StorageError, match=f"couldn't be written for {give_up_seconds:.0f} s"):
            saved.save(state(3))
        saved._uploads.cancel()


ENDINGS = """
import os, signal, sys, time
import torch
from dim_ray.cli.main import run_main
from dim_ray.core.training.ports import State
from dim_ray.pipeline.checkpoints import StoredCheckpointer
from tests.pipeline.test_checkpoint_faults import KEY, SlowStore, state

def main(arguments):
    root, ending = arguments
    saved = StoredCheckpointer(SlowStore(root, 0.5), KEY, every_seconds=0.0)
    if ending == "end":
        saved.save(state(1))
        return
    with saved:
        saved.save(state(1))
        if ending == "defect":
            raise ZeroDivisionError
        os.kill(os.getpid(), signal.Signals[ending])
        time.sleep(60)

children = {}
for ending in ("end", "defect", "SIGINT", "SIGTERM"):
    child = os.fork()  # after the imports, which take long
    if not child:
        sys.exit(run_main(main, [f"{sys.argv[1]}/{ending}", ending]))
    children[child] = ending
for _ in range(len(children)):
    child, status = os.wait()
    print(children[child], os.waitstatus_to_exitcode(status))
"""


def test_process_that_ends_right_after_a_save_leaves_the_state_on_the_storage(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", ENDINGS, str(tmp_path)], capture_output=True, text=True, check=False, timeout=120
    )
    codes = {"end": "0", "defect": "1", "SIGINT": "130", "SIGTERM": "143"}
    assert dict(line.split() for line in process.stdout.splitlines()) == codes, process.stderr
    assert {ending: stored(tmp_path / ending) for ending in codes} == dict.fromkeys(codes, 1)


KILLED = """
import sys
from dim_ray.pipeline.checkpoints import StoredCheckpointer
from dim_ray.store.artifacts import ArtifactStore
from tests.pipeline.test_checkpoint_faults import KEY, state

saved = StoredCheckpointer(ArtifactStore(sys.argv[1]), KEY, every_seconds=0.0)
loaded = saved.load()
steps = 0 if loaded is None else loaded.meta["steps"]
while True:
    steps += 1
    saved.save(state(steps, size=1_000_000))
    if steps % 3 == 0:
        saved.load()
        print(steps, flush=True)  # so much is acknowledged
"""


def test_process_killed_in_the_middle_of_uploads_leaves_a_whole_state_that_is_no_older_than_the_acknowledged(
    tmp_path: Path,
) -> None:
    before = 0
    for delay_seconds in (0.0, 0.01):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay_seconds)
        process.send_signal(signal.SIGKILL)
        rest = process.communicate()[0]
        acknowledged = [int(line) for line in rest.splitlines() if line.strip()]
        found = stored(tmp_path)
        assert found is not None
        assert found >= max([before + 1, *acknowledged])
        before = found
    StoredCheckpointer(ArtifactStore(str(tmp_path)), KEY, every_seconds=0.0).clear()
    assert not list((tmp_path / KEY).parent.iterdir()), "what killed writers left is gone, too"


@pytest.mark.slow
def test_storage_that_refuses_for_twenty_seconds_costs_training_nothing(disk: Path) -> None:
    saved: Any
    with StoredCheckpointer(ArtifactStore(str(disk)), KEY, every_seconds=0.5) as saved:
        with after(20.0, fill(disk)):
            seconds = train(saved, epochs=30, step_seconds=0.2)
        assert seconds < 27
        time.sleep(16)  # the longest pause
        assert stored(disk) is not None
        loaded = saved.load()
        assert loaded is not None
    assert stored(disk) == loaded.meta["steps"]
