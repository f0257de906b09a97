"""Progress of stages that run in this very process."""

from __future__ import annotations

from collections.abc import Mapping

from dim_ray.progress import Progress

__all__ = ["ProgressReporter"]


class ProgressReporter:
    """A Reporter that moves the current stage of a progress display.

    Args:
        progress: Entered, with a stage begun.
        done: Units that were done before this one.
    """

    def __init__(self, progress: Progress, done: int = 0) -> None:
        self._progress = progress
        self._done = done

    def report(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Shows the fraction of the unit, and its measurements."""
        note = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in metrics.items())
        self._progress.advance(self._done + step / total, note)
