"""Snapshots of teachers: on the device up to a limit, the others on the host and copied over ahead of use.

    memory = SnapshotMemory(device, limit_bytes=2**30)
    number = memory.add(snapshot)
    memory.fetch([number])               # begins to copy it, if it isn't on the device
    [tensors] = memory.take([number])    # works without `fetch`, too

A snapshot on the host is one run of bytes, for one copy. For a GPU it lies in pinned memory, and is copied in a stream
of its own beside whatever the device computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SnapshotMemory", "device_limit"]

_BYTES_PER_GIB = 2**30
_FREE_SHARE = 0.5  # of a GPU's free memory; the rest is for training
_ALIGNMENT_BYTES = 64  # of each tensor within a run of bytes: as PyTorch allocates on the CPU

Arrival = Callable[[], Tensor]
"""Returns the copied bytes; the caller's stream waits for them."""


class SnapshotMemory:
    """Keeps each snapshot on the device if it fits into what is left of the limit, otherwise on the host.

    Of those on the host, only what was taken last and what was fetched since are on the device, too. (A GPU frees
    memory when the work queued before is done: while the host is far ahead, there may be more.) Without a limit all of
    them stay on the device.
    """

    def __init__(self, device: torch.device, limit_bytes: int | None) -> None:
        self._device = device
        self._limit_bytes = limit_bytes
        self._begin_copy = _copier(device)
        self._resident: dict[int, Mapping[str, Tensor]] = {}
        self._on_host: dict[int, _Packed] = {}
        self._arrivals: dict[int, Arrival] = {}

    @property
    def is_on_device(self) -> bool:
        """Whether every snapshot is on the device."""
        return not self._on_host

    def add(self, tensors: Mapping[str, Tensor]) -> int:
        """Keep a snapshot and return its number, counted from 0."""
        number = len(self._resident) + len(self._on_host)
        size_bytes = sum(tensor.nbytes for tensor in tensors.values())
        if self._limit_bytes is not None and size_bytes > self._limit_bytes:
            self._on_host[number] = _pack(tensors, pinned=self._device.type == "cuda")
            return number
        if self._limit_bytes is not None:
            self._limit_bytes -= size_bytes
        self._resident[number] = {name: tensor.to(self._device) for name, tensor in tensors.items()}
        return number

    def fetch(self, numbers: Sequence[int]) -> None:
        """Begin to copy those snapshots that are neither on the device nor on their way."""
        for number in numbers:
            if number in self._on_host and number not in self._arrivals:
                self._arrivals[number] = self._begin_copy(self._on_host[number].data)

    def take(self, numbers: Sequence[int]) -> list[Mapping[str, Tensor]]:
        """Return the tensors of these snapshots on the device, and forget what else was fetched."""
        self._arrivals = {number: arrival for number, arrival in self._arrivals.items() if number in numbers}
        self.fetch(numbers)
        return [
            self._on_host[number].unpack(self._arrivals[number]())
            if number in self._on_host
            else self._resident[number]
            for number in numbers
        ]


def device_limit(memory_gib: float | None, device: torch.device) -> int | None:
    """Return `memory_gib` in bytes; None, no limit, on the CPU.

    If it is None: half of what is free of a GPU's memory, or of this process's part if others share the GPU.
    """
    if device.type != "cuda":
        return None
    if memory_gib is None:
        free_bytes, total_bytes = torch.cuda.mem_get_info(device)
        own_bytes = total_bytes * torch.cuda.get_per_process_memory_fraction(device)
        return int(min(free_bytes, own_bytes) * _FREE_SHARE)
    return int(memory_gib * _BYTES_PER_GIB)


@dataclass(frozen=True, kw_only=True)
class _Packed:
    """A snapshot as one run of bytes."""

    data: Tensor
    """(bytes,) uint8 on the host."""
    layout: Mapping[str, tuple[int, torch.dtype, torch.Size]]
    """First byte, type and shape of each tensor by name."""

    def unpack(self, data: Tensor) -> dict[str, Tensor]:
        """Return the tensors as views of a copy of the bytes."""
        return {
            name: data[first : first + shape.numel() * dtype.itemsize].view(dtype).view(shape)
            for name, (first, dtype, shape) in self.layout.items()
        }


def _pack(tensors: Mapping[str, Tensor], *, pinned: bool) -> _Packed:
    layout, size_bytes = {}, 0
    for name, tensor in tensors.items():
        layout[name] = size_bytes, tensor.dtype, tensor.shape
        size_bytes += -(-tensor.nbytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    packed = _Packed(data=torch.zeros(size_bytes, dtype=torch.uint8, pin_memory=pinned), layout=layout)
    for name, place in packed.unpack(packed.data).items():
        place.copy_(tensors[name])
    return packed


def _copier(device: torch.device) -> Callable[[Tensor], Arrival]:
    """Return a function that begins to copy bytes from the host to a device."""
    if device.type != "cuda":

        def copy(data: Tensor) -> Arrival:
            copied = data.to(device, copy=True)
            return lambda: copied

        return copy

    stream = torch.cuda.Stream(device)

    def copy_beside(data: Tensor) -> Arrival:
        with torch.cuda.stream(stream):
            copied = data.to(device, non_blocking=True)
            copied_event = stream.record_event()

        def arrive() -> Tensor:
            user = torch.cuda.current_stream(device)
            user.wait_event(copied_event)
            copied.record_stream(user)  # so that the copying stream doesn't reuse the memory too early
            return copied

        return arrive

    return copy_beside
