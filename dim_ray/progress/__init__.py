"""The display of a run: live on a terminal, and a few plain lines elsewhere.

    with make_progress() as progress:
        progress.plan({"teachers": 20.0, "trials": 60.0})
        progress.start("teachers", total=8, unit="teachers")
        progress.advance(0)
        progress.advance(3)

It goes to stderr, so that stdout holds only results. Details belong in the log file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["PrefixedProgress", "Progress", "SilentProgress", "is_in_notebook", "make_progress"]


class Progress:
    """Receives progress events, and shows nothing: displays override what they show. Thread-safe.

    Calls before the first stage and after the end are harmless.
    """

    def __enter__(self) -> Self:
        """Begin the display."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """End the display and give the terminal back; an exception propagates."""

    def plan(self, stages: Mapping[str, float]) -> None:
        """Set the stages to come, in order, with estimated relative costs in any one unit."""

    def start(self, stage: str, total: float, unit: str) -> None:
        """Finish the stage before, and start one of `total` units, for example 8 "teachers"."""

    def advance(self, done: float, note: str = "") -> None:
        """Report the units of this stage that are done in all, fractions included, and what is being done.

        The first call of a stage marks the beginning of its work; starting processes doesn't count towards its speed.
        """

    def status(self, text: str) -> None:
        """Show what stands beside this stage's numbers, such as how its trials ended; it replaces the one before."""

    def message(self, text: str) -> None:
        """Show a line that stays: a result, or a warning that the reader can act on."""


def make_progress(console: Console | None = None) -> Progress:
    """Return a live display on a terminal, and plain lines everywhere else.

    By default they go to stderr; in a notebook, which shows that in red, to stdout.
    """
    from rich.console import Console

    from dim_ray.progress.displays import LiveProgress, PlainProgress

    if console is None and is_in_notebook():
        console = Console(force_terminal=False, force_jupyter=False)
    console = console or Console(stderr=True)
    is_live = console.is_terminal and not console.is_dumb_terminal
    return LiveProgress(console) if is_live else PlainProgress(console)


def is_in_notebook() -> bool:
    """Return whether this process is a Jupyter kernel, or a cell started it with `!`, on what looks like a terminal."""
    return "JPY_PARENT_PID" in os.environ or "ipykernel" in sys.modules


class SilentProgress(Progress):
    """A Progress that shows nothing."""


class PrefixedProgress(Progress):
    """A Progress for a part of a run: passes stages and messages to its display with a prefix such as "mnist: "."""

    def __init__(self, progress: Progress, prefix: str) -> None:
        self._progress = progress
        self._prefix = prefix

    def plan(self, stages: Mapping[str, float]) -> None:
        self._progress.plan({f"{self._prefix}{name}": cost for name, cost in stages.items()})

    def start(self, stage: str, total: float, unit: str) -> None:
        self._progress.start(f"{self._prefix}{stage}", total, unit)

    def advance(self, done: float, note: str = "") -> None:
        self._progress.advance(done, note)

    def status(self, text: str) -> None:
        self._progress.status(text)

    def message(self, text: str) -> None:
        self._progress.message(f"{self._prefix}{text}")
