"""What somebody was told about trials, for tests to look at."""

from __future__ import annotations

from typing import Any

from dim_ray.progress import SilentProgress

PARAMETERS = {"pool.size": 2, "generator.capacity": 8, "matching.weight": 0.25, "matching.adversarial_weight": 1.5}


class RecordingProgress(SilentProgress):
    """Keeps what it was told last, and every message."""

    def __init__(self) -> None:
        self.done = 0.0
        self.counts: dict[str, Any] = {}
        self.messages: list[str] = []

    def advance(self, done: float, note: str = "") -> None:
        self.done = done

    def trials(self, **counts: Any) -> None:
        self.counts = counts

    def message(self, text: str) -> None:
        self.messages.append(text)
