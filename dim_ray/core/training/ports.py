"""The Protocols through which a stage talks to the world around it.

On a laptop the ports are the trivial ones below; under Ray, `dim_ray.distributed.bridge` supplies others. Each Protocol
has one contract suite in tests/contracts that every implementation passes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

__all__ = [
    "SILENT",
    "Checkpointer",
    "Collective",
    "NoCheckpointer",
    "Pace",
    "PartReporter",
    "Ports",
    "Reporter",
    "SilentReporter",
    "SingleWorker",
    "State",
]

_SECONDS_BETWEEN_REPORTS = 2.0


@dataclass(frozen=True, kw_only=True)
class State:
    """Everything that a stage needs to continue exactly where it was.

    Random numbers are not part of it: they follow from (seed, purpose, step), see `dim_ray.core.training.random`.
    """

    tensors: Mapping[str, Tensor]
    """Weights and optimiser state: flat, by name."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """JSON values: step counters."""


class Reporter(Protocol):
    """Receives a stage's progress."""

    def report(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Receive the steps done of `total`, and finite measurements (may be empty)."""

    def advance(self, done: float, total: int, note: str = "") -> None:
        """Receive the steps done of `total`, fractions included, every few seconds, and what is being done beside."""


class Checkpointer(Protocol):
    """Keeps the last saved state of one stage."""

    def due(self) -> bool:
        """Return whether another save is due."""

    def save(self, state: State) -> None:
        """Replace the saved state: whole or not at all.

        Copies the tensors, because training changes them. May return before the copy has reached the storage.
        """

    def load(self) -> State | None:
        """Return the last saved state, once it has reached the storage; None where there is none."""

    def clear(self) -> None:
        """Delete the saved state for good: its stage is finished."""


class Collective(Protocol):
    """The workers that train one pair of networks together."""

    rank: int
    """This worker's number, from 0."""
    num_workers: int

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the workers, in one flattened all-reduce."""

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Return the tensors of all workers by rank, without gradients; shapes and types must agree."""

    def any(self, flag: bool) -> bool:
        """Return whether `flag` is true on any worker: the same answer on all of them."""


class SilentReporter:
    """A Reporter that ignores everything."""

    def report(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        pass

    def advance(self, done: float, total: int, note: str = "") -> None:
        pass


SILENT: Reporter = SilentReporter()


@dataclass(frozen=True)
class PartReporter:
    """A Reporter for one of a job's parts."""

    whole: Reporter
    part: int
    num_parts: int

    def report(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        self.whole.report(self.part * total + step, self.num_parts * total, metrics)

    def advance(self, done: float, total: int, note: str = "") -> None:
        self.whole.advance(self.part * total + done, self.num_parts * total, note)


class Pace:
    """A clock for what is done every few seconds, such as a report."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()

    def is_due(self) -> bool:
        """Return whether the time has come, and begin to wait for the next one."""
        now = self._clock()
        if now - self._last < _SECONDS_BETWEEN_REPORTS:
            return False
        self._last = now
        return True


class NoCheckpointer:
    """A Checkpointer that keeps nothing."""

    def due(self) -> bool:
        return False

    def save(self, state: State) -> None:
        pass

    def load(self) -> State | None:
        return None

    def clear(self) -> None:
        pass


class SingleWorker:
    """A Collective of one."""

    rank = 0
    num_workers = 1

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        pass

    def gather(self, tensor: Tensor) -> list[Tensor]:
        return [tensor.detach()]

    def any(self, flag: bool) -> bool:
        return flag


@dataclass(frozen=True, kw_only=True)
class Ports:
    """What a stage talks to while it runs."""

    reporter: Reporter = field(default_factory=SilentReporter)
    checkpointer: Checkpointer = field(default_factory=NoCheckpointer)
    collective: Collective = field(default_factory=SingleWorker)
