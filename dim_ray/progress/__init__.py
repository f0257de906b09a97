"""What a person sees while a run works: one live display, or a few plain lines where there is no terminal.

    with make_progress() as progress:
        progress.plan({"teachers": 20.0, "trials": 60.0})
        progress.start("teachers", total=8, unit="teachers")
        progress.advance(0)
        progress.advance(3)

It goes to stderr, so that stdout holds results alone. Details belong in the log file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["PrefixedProgress", "Progress", "SilentProgress", "make_progress"]


class Progress(Protocol):
    """Is told what a run does, from any thread. Calls before a stage starts and after the end are harmless."""

    def __enter__(self) -> Self:
        """Begins the display."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends the display and gives the terminal back, whatever happened; an exception goes on."""

    def plan(self, stages: Mapping[str, float]) -> None:
        """Takes the names of the stages, in order, with estimated relative costs in any one unit."""

    def start(self, stage: str, total: float, unit: str) -> None:
        """Starts a stage of `total` units, for example 8 "teachers"; the stage before is finished."""

    def advance(self, done: float, note: str = "") -> None:
        """Takes the units of this stage that are done in all (fractions are fine), and what is being done.

        The first call of a stage says when its work began: the start of processes, before it, is not its speed.
        """

    def trials(self, *, done: int, running: int, stopped: int, failed: int, best: float | None) -> None:
        """Takes the numbers of trials, and the best validation accuracy so far, in [0, 1]."""

    def message(self, text: str) -> None:
        """Shows a line that stays: a result, or a warning that the reader can act on."""


def make_progress(console: Console | None = None, *, clock: Callable[[], float] = time.monotonic) -> Progress:
    """Returns a live display on a terminal, and plain lines everywhere else.

    Args:
        console: Where to write. Default: stderr.
        clock: Seconds that only grow.
    """
    from rich.console import Console

    from dim_ray.progress.displays import LiveProgress, PlainProgress

    console = console or Console(stderr=True)
    is_live = console.is_terminal and not console.is_dumb_terminal
    return LiveProgress(console, clock=clock) if is_live else PlainProgress(console, clock=clock)


class SilentProgress:
    """A Progress that shows nothing."""

    def __enter__(self) -> Self:
        """Does nothing."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Does nothing."""

    def plan(self, stages: Mapping[str, float]) -> None:
        """Does nothing."""

    def start(self, stage: str, total: float, unit: str) -> None:
        """Does nothing."""

    def advance(self, done: float, note: str = "") -> None:
        """Does nothing."""

    def trials(self, *, done: int, running: int, stopped: int, failed: int, best: float | None) -> None:
        """Does nothing."""

    def message(self, text: str) -> None:
        """Does nothing."""


class PrefixedProgress(SilentProgress):
    """Hands on what it's told, with a prefix before the names of stages: one part of a run that has several.

    Beginning and ending it does nothing, as the run's own display has begun.

    Args:
        progress: Is told.
        prefix: For example "mnist: ", or nothing.
    """

    def __init__(self, progress: Progress, prefix: str) -> None:
        self._progress = progress
        self._prefix = prefix

    def plan(self, stages: Mapping[str, float]) -> None:
        """Hands on the stages under their prefixed names."""
        self._progress.plan({f"{self._prefix}{name}": cost for name, cost in stages.items()})

    def start(self, stage: str, total: float, unit: str) -> None:
        """Hands on the stage under its prefixed name."""
        self._progress.start(f"{self._prefix}{stage}", total, unit)

    def advance(self, done: float, note: str = "") -> None:
        """Hands it on."""
        self._progress.advance(done, note)

    def trials(self, *, done: int, running: int, stopped: int, failed: int, best: float | None) -> None:
        """Hands them on."""
        self._progress.trials(done=done, running=running, stopped=stopped, failed=failed, best=best)

    def message(self, text: str) -> None:
        """Hands it on, prefixed."""
        self._progress.message(f"{self._prefix}{text}")
