"""The stages of a run and how long they will take.

    stages = Stages()
    stages.plan({"teachers": 20.0, "trials": 60.0})
    stages.start("teachers", total=8, unit="teachers")
    stages.advance(0)
    stages.advance(3)
    stages.stage_seconds_left(), stages.run_seconds_left()

A stage's time left comes from its speed since the first report, because processes start before. The run's time left
adds the estimated costs of the stages to come, scaled by the seconds that earlier stages took for theirs.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Stage", "Stages", "counted", "format_duration", "format_percent", "format_time_left"]

_WINDOW_SECONDS = 60.0  # over which speed is measured
_SAMPLE_SECONDS = 0.2  # reports in quicker succession are one sample
_RESUME_SECONDS = 1.0  # work done this early was found in the storage, and says nothing about speed


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
    """Units done, in [0, total]."""
    note: str = ""
    started_at: float = 0.0
    """Reading of the clock."""
    seconds: float = 0.0
    """Duration, once the stage is over."""
    samples: deque[tuple[float, float]] = field(default_factory=deque)
    """Readings of the clock with the units done."""


class Stages:
    """The plan and state of a run. Not thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.started_at = clock()
        self.stages: list[Stage] = []
        self.current: Stage | None = None

    def plan(self, weights: Mapping[str, float]) -> None:
        """Set the stages to come, in order, with estimated relative costs; stages that have begun stay."""
        begun = [stage for stage in self.stages if stage.state != "waiting"]
        known = {stage.name: stage for stage in begun}
        for name, weight in weights.items():
            if name in known:
                known[name].weight = max(0.0, weight)
        coming = [Stage(name=name, weight=max(0.0, weight)) for name, weight in weights.items() if name not in known]
        self.stages = begun + coming

    def start(self, name: str, total: float, unit: str) -> Stage:
        """Finish the current stage and start this one, leaving out the planned ones between them."""
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
        """Set the units of the current stage, if any, that are done in all; its work begins with the first call."""
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
        """End the current stage, complete or stopped, and return it."""
        stage, self.current = self.current, None
        if stage is not None:
            stage.seconds = self.clock() - stage.started_at
            stage.state = "done" if is_complete else "stopped"
        return stage

    def run_seconds(self) -> float:
        """Return the seconds since the run began."""
        return self.clock() - self.started_at

    def stage_seconds_left(self) -> float | None:
        """Return the estimated seconds left of the current stage, or None while unknown."""
        if self.current is None or not self.current.samples:
            return None
        (first_at, first), (last_at, last) = self.current.samples[0], self.current.samples[-1]
        if last <= first or last_at <= first_at:
            return None
        at_last_report = (self.current.total - last) * (last_at - first_at) / (last - first)
        return max(0.0, at_last_report - (self.clock() - last_at))

    def run_seconds_left(self) -> float | None:
        """Return the estimated seconds left of the run, or None while unknown."""
        stage = self.current
        if stage is None:
            return None
        # A stage that took no time was found done in the storage.
        over = [s for s in self.stages if s.state == "done" and s.weight > 0 and s.seconds >= _RESUME_SECONDS]
        seconds, weight = sum(s.seconds for s in over), sum(s.weight for s in over)
        left = self.stage_seconds_left()
        if left is not None and stage.weight > 0:
            elapsed = self.clock() - stage.started_at
            rest = 1.0 - stage.done / stage.total if stage.total > 0 else 1.0
            seconds += max(elapsed + left, left / rest if rest > 0 else 0.0)  # the second if it was resumed half-way
            weight += stage.weight
        to_come = sum(s.weight for s in self.stages if s.state == "waiting")
        if weight == 0:
            return left if to_come == 0 else None
        seconds_per_weight = seconds / weight
        if left is None:
            left = stage.weight * seconds_per_weight - (self.clock() - stage.started_at)
            if left <= 0:  # it takes longer than estimated
                return None
        return left + seconds_per_weight * to_come


def counted(count: int, what: str) -> str:
    """Format a number of things: 1 trial, 2 trials."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def format_percent(mean: float, std: float = math.nan, digits: int = 1) -> str:
    """Format a fraction in %, with its standard deviation if there is one: 92.3 ± 0.7."""
    return f"{100 * mean:.{digits}f}" + ("" if math.isnan(std) else f" ± {100 * std:.{digits}f}")


def format_duration(seconds: float) -> str:
    """Format measured seconds: 12.3 s, 1 min 52 s, 2 h 5 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def format_time_left(seconds: float | None) -> str:
    """Format a rounded estimate: about 1 min 50 s left."""
    if seconds is None:
        return "estimating"
    step = 1 if seconds < 15 else 5 if seconds < 60 else 10
    rounded = max(1, math.ceil(seconds / step) * step)
    return f"about {f'{rounded} s' if rounded < 60 else format_duration(rounded).removesuffix(' 0 s')} left"
