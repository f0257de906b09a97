"""Stages in this process, with their progress."""

from __future__ import annotations

from collections.abc import Mapping

from dim_ray.pipeline.teachers import build_teachers, group_teachers, missing_teachers
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress import Progress

__all__ = ["ProgressReporter", "train_pool"]


class ProgressReporter:
    """A Reporter that advances a display's current stage, of which `done` units are done, by `size` units."""

    def __init__(self, progress: Progress, done: int = 0, size: int = 1) -> None:
        self._progress = progress
        self._done = done
        self._size = size
        self._note = ""

    def report(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        self._note = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in metrics.items())
        self.advance(step, total)

    def advance(self, done: float, total: int, note: str = "") -> None:
        self._progress.advance(self._done + self._size * done / total, note or self._note)


def train_pool(work: Workspace, progress: Progress) -> None:
    """Train the missing teachers on the dataset's device, and show one stage."""
    missing = missing_teachers(work)
    if not missing:
        return
    progress.start("teachers", len(missing), "teachers")
    done = 0
    for group in group_teachers(work, missing, device_type=work.dataset.device.type, num_slots=1):
        build_teachers(work, group, ProgressReporter(progress, done, len(group)))
        done += len(group)
