from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from dim_ray.core.teachers import snapshots
from dim_ray.core.teachers.snapshots import SnapshotMemory, device_limit
from dim_ray.core.training.random import stream
from tests.helpers.tiny import equal_states

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


class Copies:
    """Stands for a device: records which copies were begun, which have arrived and which are still in use."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_begun = 0
        self.num_waits = 0
        self._copies: list[weakref.ref[Tensor]] = []
        monkeypatch.setattr(snapshots, "_copier", lambda device: self._begin)

    def _begin(self, data: Tensor) -> Callable[[], Tensor]:
        copied = torch.zeros_like(data)  # not arrived yet
        self.num_begun += 1
        self._copies.append(weakref.ref(copied))

        def arrive() -> Tensor:
            self.num_waits += 1
            return copied.copy_(data)

        return arrive

    @property
    def num_alive(self) -> int:
        return sum(copy() is not None for copy in self._copies)


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> Copies:
    return Copies(monkeypatch)


def snapshot(seed: int = 0, size: int = 10) -> dict[str, Tensor]:
    rng = stream(seed)
    return {
        "weight": torch.randn(size, 3, generator=rng),
        "none": torch.empty(0, 4),
        "half": torch.randn(5, generator=rng).bfloat16(),
        "flag": torch.tensor([True, False, True]),
        "transposed": torch.randn(3, size, generator=rng).t(),
        "count": torch.tensor(seed),
    }


def size_of(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def filled(limit_bytes: int | None, given: Sequence[Mapping[str, Tensor]]) -> SnapshotMemory:
    memory = SnapshotMemory(CPU, limit_bytes)
    assert [memory.add(tensors) for tensors in given] == list(range(len(given)))
    return memory


def fetched(memory: SnapshotMemory, count: int, copies: Copies) -> list[int]:
    """Return the snapshots that aren't on the device."""
    found = []
    for number in range(count):
        before = copies.num_begun
        memory.take([number])
        found += [number] if copies.num_begun > before else []
    return found


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0, None])
def test_snapshots_have_the_same_bits_wherever_they_stay(share: float | None) -> None:
    given = [snapshot(seed) for seed in range(4)]
    memory = filled(None if share is None else int(share * sum(map(size_of, given))), given)
    memory.fetch([3])
    assert memory.is_on_device is (share in (1.0, None))
    for numbers in ([0], [3, 1], [2, 2, 0], [3, 2, 1, 0]):
        for number, tensors in zip(numbers, memory.take(numbers), strict=True):
            assert equal_states(tensors, given[number])


def test_snapshots_on_the_host_are_copies() -> None:
    given = snapshot()
    memory = filled(0, [given])
    given["weight"].zero_()
    assert equal_states(memory.take([0])[0], snapshot())


def test_the_first_snapshots_that_fit_into_the_budget_stay_on_the_device(copies: Copies) -> None:
    given = [snapshot(size=size) for size in (10, 10, 50, 10, 10)]
    small, large = size_of(given[0]), size_of(given[2])
    for limit_bytes, on_host in (
        (0, [0, 1, 2, 3, 4]),
        (small - 1, [0, 1, 2, 3, 4]),
        (small, [1, 2, 3, 4]),
        (2 * small + large - 1, [2]),  # the small ones after it still fit
        (2 * small + large, [3, 4]),
        (4 * small + large, []),
        (None, []),
    ):
        assert large - 1 >= 2 * small
        assert fetched(filled(limit_bytes, given), len(given), copies) == on_host


def test_what_was_fetched_is_not_copied_again_when_it_is_taken(copies: Copies) -> None:
    memory = filled(0, [snapshot(seed) for seed in range(3)])
    memory.fetch([2, 0, 2])
    memory.fetch([0])
    assert (copies.num_begun, copies.num_waits) == (2, 0), "begun, and not waited for"
    for number, tensors in zip((0, 2), memory.take([0, 2]), strict=True):
        assert equal_states(tensors, snapshot(number))
    assert copies.num_begun == 2


def test_a_snapshot_that_is_taken_twice_in_a_row_is_copied_once(copies: Copies) -> None:
    memory = filled(0, [snapshot(seed) for seed in range(3)])
    for _ in range(2):
        assert equal_states(memory.take([1])[0], snapshot(1))
        memory.fetch([1])
    assert copies.num_begun == 1


def test_what_was_not_fetched_is_copied_when_it_is_taken(copies: Copies) -> None:
    memory = filled(0, [snapshot(seed) for seed in range(3)])
    memory.fetch([1])
    assert equal_states(memory.take([2])[0], snapshot(2))
    assert equal_states(memory.take([1])[0], snapshot(1))
    assert copies.num_begun == 3, "what was fetched in vain is forgotten"


def test_no_more_than_two_steps_snapshots_are_on_the_device_beside_the_budget(copies: Copies) -> None:
    rng, count = stream(0), 2
    memory = filled(2 * size_of(snapshot()), [snapshot(seed) for seed in range(20)])
    steps = torch.randint(20, (40, count), generator=rng).tolist()
    for step, following in pairwise(steps):
        tensors = memory.take(step)
        assert copies.num_alive <= count
        memory.fetch(following)
        assert copies.num_alive <= 2 * count
        assert all(map(equal_states, tensors, map(snapshot, step)))
        del tensors
    assert copies.num_begun > 30


def test_on_a_cpu_there_is_no_budget() -> None:
    assert device_limit(None, CPU) is None
    assert device_limit(0.0, CPU) is None


def test_on_a_gpu_the_budget_is_what_was_asked_for_or_half_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (6_000, 80_000))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 1.0)
    assert device_limit(None, CUDA) == 3_000
    assert device_limit(0.0, CUDA) == 0
    assert device_limit(1.5, CUDA) == 3 * 2**29


def test_workers_that_share_a_gpu_and_start_together_share_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (79_000, 80_000))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 0.25)
    assert device_limit(None, CUDA) == 10_000


def test_on_a_gpu_bytes_are_copied_in_a_separate_stream_that_their_user_waits_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Check the calls and their order; whether it works is tested on a GPU."""
    calls: list[str] = []
    inside: list[str] = []

    class Stream:
        def __init__(self, device: torch.device) -> None:
            self.name = "side"

        def __enter__(self) -> None:
            inside.append(self.name)

        def __exit__(self, *error: object) -> None:
            inside.pop()

        def record_event(self) -> str:
            calls.append(f"event of {self.name}")
            return "copied"

    class Bytes:
        def to(self, device: torch.device, *, non_blocking: bool) -> Bytes:
            calls.append(f"copy in {inside}, blocking: {not non_blocking}")
            return Bytes()

        def record_stream(self, stream: SimpleNamespace) -> None:
            calls.append(f"kept for {stream.name}")

    user = SimpleNamespace(name="user", wait_event=lambda event: calls.append(f"user waits for {event}"))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: user)
    arrive = snapshots._copier(CUDA)(Bytes())  # type: ignore[arg-type]
    assert calls == ["copy in ['side'], blocking: False", "event of side"]
    arrive()
    assert calls[2:] == ["user waits for copied", "kept for user"]


@pytest.mark.gpu
def test_snapshots_cross_over_while_the_device_computes() -> None:
    given = [snapshot(seed, size=1_000_000) for seed in range(3)]
    memory = SnapshotMemory(CUDA, 0)
    for tensors in given:
        memory.add(tensors)
    assert all(packed.data.is_pinned() for packed in memory._on_host.values())
    matrix = torch.randn(4096, 4096, device=CUDA)
    sums = []
    for step in range(30):
        [tensors] = memory.take([step % 3])
        memory.fetch([(step + 1) % 3])
        for _ in range(5):
            matrix = matrix @ matrix / 4096
        sums.append(tensors["weight"].double().sum())
        del tensors
    expected = [tensors["weight"].to(CUDA).double().sum() for tensors in given]
    assert all(torch.equal(found, expected[step % 3]) for step, found in enumerate(sums))
