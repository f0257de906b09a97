"""What somebody was told about trials, for tests to look at."""

from __future__ import annotations

from dim_ray.progress import SilentProgress

PARAMETERS = {"pool.size": 2, "generator.capacity": 8, "matching.weight": 0.25, "matching.adversarial_weight": 1.5}


class RecordingProgress(SilentProgress):
    """Keeps what it was told last, and every message."""

    def __init__(self) -> None:
        self.done = 0.0
        self.counts = ""
        self.messages: list[str] = []

    def advance(self, done: float, note: str = "") -> None:
        self.done = done

    def status(self, text: str) -> None:
        self.counts = text

    def message(self, text: str) -> None:
        self.messages.append(text)
