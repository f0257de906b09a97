"""The Protocols through which a stage talks to the world around it.

A stage is a plain function of configuration, data, networks, these ports and a seed. On a laptop the ports are
the trivial ones below; under Ray, `dim_ray.distributed.bridge` supplies others. Each Protocol has one contract
suite in tests/contracts that every implementation passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = [
    "Checkpointer",
    "Collective",
    "NoCheckpointer",
    "Reporter",
    "SilentReporter",
    "SingleWorker",
    "State",
]


@dataclass(frozen=True, kw_only=True)
class State:
    """Everything that a stage needs to go on exactly where it was.

    Random numbers are not in it: every stage derives them from (seed, purpose, step), see
    `dim_ray.core.training.random`.
    """

    tensors: Mapping[str, Tensor]
    """Flat, named tensors: weights and optimiser state."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """JSON values: step counters."""


class Reporter(Protocol):
    """Is told how far a stage is."""

    def report(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Takes the number of steps done of `total`, with finite measurements (may be empty)."""


class Checkpointer(Protocol):
    """Keeps the last saved state of one stage."""

    def due(self) -> bool:
        """Whether so much time has passed since the last save that another is worth its cost."""

    def save(self, state: State) -> None:
        """Replaces the saved state: whole or not at all.

        The tensors are a stage's own, which it goes on to change: what is kept is a copy. It may be on its way to the
        storage when this returns.
        """

    def load(self) -> State | None:
        """Returns the last saved state, which is on the storage from now on, or None where there is none."""

    def clear(self) -> None:
        """Forgets the saved state: its stage is finished. It never comes back."""


class Collective(Protocol):
    """The workers that train one pair of networks together."""

    rank: int
    """This worker's number, from 0."""
    num_workers: int
    """How many workers there are."""

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replaces each gradient by its mean over the workers, in one flattened all-reduce."""

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Returns the tensors of all workers in the order of rank, without gradients; shapes and types are the same."""

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on any worker; every worker gets the same answer."""


class SilentReporter:
    """A Reporter that ignores what it is told."""

    def report(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Does nothing."""


class NoCheckpointer:
    """A Checkpointer that keeps nothing."""

    def due(self) -> bool:
        """Never."""
        return False

    def save(self, state: State) -> None:
        """Does nothing."""

    def load(self) -> State | None:
        """Has nothing."""
        return None

    def clear(self) -> None:
        """Does nothing."""


class SingleWorker:
    """A Collective of one."""

    rank = 0
    num_workers = 1

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """One worker's gradients are their own mean."""

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Returns the one that there is."""
        return [tensor.detach()]

    def any(self, flag: bool) -> bool:
        """Returns `flag`."""
        return flag
