"""The two displays that `dim_ray.progress.make_progress` chooses from: a live checklist, and plain lines."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Self

from dim_ray.progress import Progress
from dim_ray.progress.stages import Stage, Stages, format_duration, format_time_left
from dim_ray.start.streams import close_broken

if TYPE_CHECKING:
    from rich.console import Console, Group, RenderableType

__all__ = ["LiveProgress", "PlainProgress"]

_REFRESHES_PER_SECOND = 4.0
_PLAIN_SECONDS = 20.0
_FEW = 10  # units of a stage
_WIDEST_BAR = 30
_NARROWEST_BAR = 6
_WIDTH_BESIDE_BAR = 54


class _Display(Progress):
    """What both displays have: the stages of a run, and the status of the current one."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console = console
        self._stages = Stages(clock)
        self._lock = threading.Lock()
        self._status = ""

    def plan(self, stages: Mapping[str, float]) -> None:
        with self._lock:
            self._stages.plan(stages)

    def start(self, stage: str, total: float, unit: str) -> None:
        with self._lock:
            self._stages.start(stage, total, unit)
            self._status = ""

    def advance(self, done: float, note: str = "") -> None:
        with self._lock:
            self._stages.advance(done, note)

    def status(self, text: str) -> None:
        with self._lock:
            self._status = text

    def message(self, text: str) -> None:
        _print_plain(self._console, text)


class PlainProgress(_Display):
    """A Progress that prints a line when a stage starts, when it ends, and every 20 seconds in between."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console, clock)
        self._printed_at = clock()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._finish(is_complete=error is None)

    def start(self, stage: str, total: float, unit: str) -> None:
        self._finish(is_complete=True)
        super().start(stage, total, unit)
        self._print(f"{stage}: started, {_count(total)} {unit}")

    def advance(self, done: float, note: str = "") -> None:
        super().advance(done, note)
        self._print_sometimes()

    def status(self, text: str) -> None:
        super().status(text)
        self._print_sometimes()

    def _finish(self, *, is_complete: bool) -> None:
        with self._lock:
            stage = self._stages.finish(is_complete=is_complete)
        if stage is not None:
            done = f"stopped at {_count(stage.done, stage.total)} of {_count(stage.total)} {stage.unit}"
            line = f"{stage.name}: {'finished' if is_complete else done} after {format_duration(stage.seconds)}"
            self._print("; ".join(filter(None, [line, self._status])))

    def _print_sometimes(self) -> None:
        with self._lock:
            stage = self._stages.current
            if stage is None or self._stages.clock() - self._printed_at < _PLAIN_SECONDS:
                return
            parts = [
                f"{stage.name}: {_count(stage.done, stage.total)} of {_count(stage.total)} {stage.unit}",
                self._status,
                stage.note,
                f"stage {format_time_left(self._stages.stage_seconds_left())}",
                f"run {format_time_left(self._stages.run_seconds_left())}",
            ]
            self._print("; ".join(filter(None, parts)))

    def _print(self, text: str) -> None:
        self._printed_at = self._stages.clock()
        _print_plain(self._console, f"[{format_duration(self._stages.run_seconds())}] {text}")


class LiveProgress(_Display):
    """A Progress that updates a checklist of the stages in place on the terminal.

    Without `is_refreshed`, it's redrawn only when a stage starts and at the end.
    """

    def __init__(
        self, console: Console, *, clock: Callable[[], float] = time.monotonic, is_refreshed: bool = True
    ) -> None:
        from rich.live import Live

        super().__init__(console, clock)
        self._has_ended = False
        self._live = Live(
            console=console,
            get_renderable=self._draw,
            auto_refresh=is_refreshed,
            refresh_per_second=_REFRESHES_PER_SECOND,
            # Show what others print above the display, but leave pipes and files as they are.
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=sys.stderr.isatty(),
        )

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        with self._lock:
            self._stages.finish(is_complete=error is None)
            self._has_ended = True
        self._live.stop()

    def start(self, stage: str, total: float, unit: str) -> None:
        super().start(stage, total, unit)
        self._live.refresh()  # without the lock, because drawing takes rich's lock and then ours

    def _draw(self) -> Group:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        with self._lock:
            stages, current = self._stages, self._stages.current
            header = f"{format_duration(stages.run_seconds())} elapsed"
            if not self._has_ended:
                left = stages.run_seconds_left()
                header += ", estimating the time left" if left is None else f", {format_time_left(left)}"
            table = Table.grid(padding=(0, 1, 0, 0))
            for _ in range(5):
                table.add_column(no_wrap=True, overflow="ellipsis")
            for stage in stages.stages:
                table.add_row(*self._row(stage))
            details = "; ".join(filter(None, [self._status, current.note if current else ""]))
            lines: list[RenderableType] = [Text(header, style="bold"), table]
            if details:
                lines.append(Text(f"  {details}", style="dim", no_wrap=False))
            return Group(*lines)

    def _row(self, stage: Stage) -> tuple[RenderableType, ...]:
        """Return symbol, name, bar, counts and time of one stage."""
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        is_ascii = self._console.options.ascii_only
        counts = f"{_count(stage.done, stage.total)}/{_count(stage.total)} {stage.unit}"
        if stage.state == "running":
            width = min(max(self._console.width - _WIDTH_BESIDE_BAR, _NARROWEST_BAR), _WIDEST_BAR)
            bar = ProgressBar(total=max(stage.total, 1.0), completed=stage.done, width=width)
            left = format_time_left(self._stages.stage_seconds_left())
            return Text(">" if is_ascii else "▸", style="cyan"), Text(stage.name), bar, Text(counts), Text(left)
        if stage.state == "done":
            counts = f"{_count(stage.total)} {stage.unit}"
            symbol = Text("+" if is_ascii else "✓", style="green")
            return symbol, Text(stage.name), "", Text(counts), Text(format_duration(stage.seconds))
        if stage.state == "stopped":
            symbol = Text("x" if is_ascii else "✗", style="red")
            return symbol, Text(stage.name), "", Text(counts), Text(f"stopped after {format_duration(stage.seconds)}")
        end = "not needed" if stage.state == "left_out" else ""
        return "", Text(stage.name, style="dim"), "", "", Text(end, style="dim")


def _print_plain(console: Console, text: str) -> None:
    """Print text without markup or line breaks, so that it can be copied; a full disk doesn't end a run."""
    try:
        console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)
    except BrokenPipeError:
        raise
    except OSError:
        close_broken(sys.stderr)


def _count(number: float, total: float = math.inf) -> str:
    """Return whole numbers as such, and others rounded down, to a hundredth if there are few."""
    if number == int(number):
        return f"{number:.0f}"
    return f"{math.floor(100 * number) / 100:.2f}" if total < _FEW else f"{math.floor(10 * number) / 10:.1f}"
