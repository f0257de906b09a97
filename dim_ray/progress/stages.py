"""The stages of a run and how long they will take: what a progress display shows, without a display.

    stages = Stages()
    stages.plan({"teachers": 20.0, "trials": 60.0})
    stages.start("teachers", total=8, unit="teachers")
    stages.advance(0)
    stages.advance(3)
    stages.stage_seconds_left(), stages.run_seconds_left()

A stage's time left comes from its own speed since the first report: what lies before is the start of processes. That
of the run adds the estimated costs of the stages to come, scaled by what the costs of earlier stages turned out to be
in seconds.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Stage", "Stages", "counted", "format_duration", "format_time_left"]

_WINDOW_SECONDS = 60.0  # speed is that of this last stretch
_SAMPLE_SECONDS = 0.2  # reports that come faster are one sample
_RESUME_SECONDS = 1.0  # what is done this early was found done, and says nothing about speed


@dataclass(kw_only=True)
class Stage:
    """One stage of a run."""

    name: str
    weight: float = 0.0
    """Estimated cost, in the plan's unit."""
    state: Literal["waiting", "running", "done", "left_out", "stopped"] = "waiting"
    total: float = 0.0
    """Units of work."""
    unit: str = ""
    done: float = 0.0
    """Units of work done, in [0, total]."""
    note: str = ""
    started_at: float = 0.0
    """Reading of the clock."""
    seconds: float = 0.0
    """What it took, once it is over."""
    samples: deque[tuple[float, float]] = field(default_factory=deque)
    """Readings of the clock, with the units done then."""

    @property
    def fraction(self) -> float:
        """Share of the work that is done, in [0, 1]."""
        return self.done / self.total if self.total > 0 else 0.0


class Stages:
    """The plan of a run, where it stands and what is left. Not thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts the run's clock (in seconds)."""
        self.clock = clock
        self.started_at = clock()
        self.stages: list[Stage] = []
        self.current: Stage | None = None

    def plan(self, weights: Mapping[str, float]) -> None:
        """Sets the stages to come, in order, with their estimated relative costs; what has begun stays."""
        begun = [stage for stage in self.stages if stage.state != "waiting"]
        known = {stage.name: stage for stage in begun}
        for name, weight in weights.items():
            if name in known:
                known[name].weight = max(0.0, weight)
        coming = [Stage(name=name, weight=max(0.0, weight)) for name, weight in weights.items() if name not in known]
        self.stages = begun + coming

    def start(self, name: str, total: float, unit: str) -> Stage:
        """Finishes the stage before and starts this one; planned stages between them are left out."""
        self.finish()
        now = self.clock()
        stage = next((s for s in self.stages if s.name == name and s.state == "waiting"), None)
        if stage is None:
            stage = Stage(name=name)
            coming = [i for i, s in enumerate(self.stages) if s.state == "waiting"]
            self.stages.insert(coming[0] if coming else len(self.stages), stage)
        for earlier in self.stages[: self.stages.index(stage)]:
            if earlier.state == "waiting":
                earlier.state = "left_out"
        stage.state, stage.total, stage.unit, stage.started_at = "running", max(0.0, total), unit, now
        self.current = stage
        return stage

    def advance(self, done: float, note: str = "") -> None:
        """Notes how many units of the current stage are done in all; the first call of a stage is its work's beginning.

        Without a current stage it does nothing.
        """
        stage, now = self.current, self.clock()
        if stage is None or not math.isfinite(done):
            return
        stage.done, stage.note = min(max(0.0, done), stage.total), note
        samples = stage.samples
        if (samples and stage.done < samples[-1][1]) or now - stage.started_at < _RESUME_SECONDS:
            samples.clear()
        elif len(samples) > 1 and now - samples[-2][0] < _SAMPLE_SECONDS:
            samples.pop()
        samples.append((now, stage.done))
        while len(samples) > 2 and samples[1][0] <= now - _WINDOW_SECONDS:
            samples.popleft()

    def finish(self, *, is_complete: bool = True) -> Stage | None:
        """Ends the current stage, complete or stopped on the way, and returns it."""
        stage, self.current = self.current, None
        if stage is not None:
            stage.seconds = self.clock() - stage.started_at
            stage.state = "done" if is_complete else "stopped"
        return stage

    def run_seconds(self) -> float:
        """Returns the seconds since the run began."""
        return self.clock() - self.started_at

    def stage_seconds_left(self) -> float | None:
        """Returns the seconds that the current stage still takes, or None while they can't be known."""
        if self.current is None or not self.current.samples:
            return None
        (first_at, first), (last_at, last) = self.current.samples[0], self.current.samples[-1]
        if last <= first or last_at <= first_at:
            return None
        at_last_report = (self.current.total - last) * (last_at - first_at) / (last - first)
        return max(0.0, at_last_report - (self.clock() - last_at))

    def run_seconds_left(self) -> float | None:
        """Returns the seconds that the run still takes, or None while they can't be known."""
        stage = self.current
        if stage is None:
            return None
        # A stage that took no time was found done in the storage: it says nothing about speed.
        over = [s for s in self.stages if s.state == "done" and s.weight > 0 and s.seconds >= _RESUME_SECONDS]
        seconds, weight = sum(s.seconds for s in over), sum(s.weight for s in over)
        left = self.stage_seconds_left()
        if left is not None and stage.weight > 0:
            elapsed = self.clock() - stage.started_at
            rest = 1.0 - stage.fraction
            seconds += max(elapsed + left, left / rest if rest > 0 else 0.0)  # the second: it was resumed half-way
            weight += stage.weight
        to_come = sum(s.weight for s in self.stages if s.state == "waiting")
        if weight == 0:
            return left if to_come == 0 else None
        seconds_per_weight = seconds / weight
        if left is None:
            left = stage.weight * seconds_per_weight - (self.clock() - stage.started_at)
            if left <= 0:  # it takes longer than was thought, and nobody knows how long
                return None
        return left + seconds_per_weight * to_come


def counted(count: int, what: str) -> str:
    """Returns a number of things for a person: 1 trial, 2 trials."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def format_duration(seconds: float) -> str:
    """Returns measured seconds for a person: 12.3 s, 1 min 52 s, 2 h 5 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def format_time_left(seconds: float | None) -> str:
    """Returns an estimate for a person, rounded to what it is worth: about 1 min 50 s left."""
    if seconds is None:
        return "estimating"
    step = 1 if seconds < 15 else 5 if seconds < 60 else 10
    rounded = max(1, math.ceil(seconds / step) * step)
    return f"about {f'{rounded} s' if rounded < 60 else format_duration(rounded).removesuffix(' 0 s')} left"
