"""The contract of every Progress."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable
from io import StringIO

import pytest
from rich.console import Console

from dim_ray.progress import PrefixedProgress, Progress, SilentProgress
from dim_ray.progress.displays import LiveProgress, PlainProgress


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


Make = Callable[[Clock, StringIO], Progress]


def live(width: int, *, is_refreshed: bool = True) -> Make:
    def make(clock: Clock, output: StringIO) -> Progress:
        console = Console(file=output, force_terminal=True, width=width, height=24)
        return LiveProgress(console, clock=clock, is_refreshed=is_refreshed)

    return make


def plain(clock: Clock, output: StringIO) -> Progress:
    return PlainProgress(Console(file=output, width=80), clock=clock)


def silent(clock: Clock, output: StringIO) -> Progress:
    return SilentProgress()


def prefixed(clock: Clock, output: StringIO) -> Progress:
    return PrefixedProgress(plain(clock, output), "mnist: ")


SHOWING: dict[str, Make] = {
    "live": live(100),
    "live_narrow": live(40),
    "live_without_refresh": live(80, is_refreshed=False),
    "plain": plain,
}
ALL: dict[str, Make] = {**SHOWING, "silent": silent, "prefixed": prefixed}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def output() -> StringIO:
    return StringIO()


@pytest.fixture(params=ALL, ids=str)
def progress(request: pytest.FixtureRequest, clock: Clock, output: StringIO) -> Progress:
    return ALL[request.param](clock, output)


@pytest.fixture(params=SHOWING, ids=str)
def showing(request: pytest.FixtureRequest, clock: Clock, output: StringIO) -> Progress:
    return SHOWING[request.param](clock, output)


def test_it_is_a_context_manager_that_returns_itself(progress: Progress) -> None:
    with progress as entered:
        assert entered is progress


def test_calls_without_a_stage_and_outside_of_the_run_are_harmless(progress: Progress) -> None:
    progress.plan({"a": 1.0})
    progress.advance(1.0)
    with progress:
        progress.advance(1.0, "early")
        progress.status("2 running")
        progress.start("a", 1, "things")
    progress.advance(1.0, "late")
    progress.status("2 running")
    progress.plan({"b": 1.0})
    progress.message("late")
    progress.start("late", 1, "things")


@pytest.mark.parametrize(
    ("total", "done"), [(0, 0.0), (0, 3.0), (4, 9.0), (4, -1.0), (4, float("nan")), (4, float("inf")), (4, 0.5)]
)
def test_odd_counts_are_harmless(progress: Progress, clock: Clock, total: int, done: float) -> None:
    with progress:
        progress.plan({"a": 0.0, "b": -1.0, "c": 1.0})
        progress.start("a", total, "things")
        clock.seconds += 30.0
        progress.advance(done)
        progress.status("2 running")
        progress.start("a", total, "things")
        progress.start("unplanned", total, "things")


def test_plan_may_change_on_the_way(progress: Progress, clock: Clock) -> None:
    with progress:
        progress.start("a", 4, "things")
        progress.plan({"a": 1.0, "b": 2.0})
        clock.seconds += 30.0
        progress.advance(2)
        progress.plan({"a": 1.0, "c": 2.0})
        progress.start("c", 1, "things")


def fail_in_a_stage(progress: Progress, error: BaseException) -> None:
    with progress:
        progress.start("a", 4, "things")
        raise error


def test_exception_passes_and_the_streams_are_restored(progress: Progress) -> None:
    streams = (sys.stdout, sys.stderr)
    with pytest.raises(ZeroDivisionError):
        fail_in_a_stage(progress, ZeroDivisionError())
    assert (sys.stdout, sys.stderr) == streams


def test_no_thread_outlives_it(progress: Progress) -> None:
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        fail_in_a_stage(progress, KeyboardInterrupt())
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=5)
    assert set(threading.enumerate()) <= before


def test_calls_from_many_threads_neither_fail_nor_wait_for_each_other(progress: Progress, clock: Clock) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(30):
                progress.advance(i, f"note {number}")
                progress.status("2 running")
                clock.seconds += 1.0
                if i % 10 == 0:
                    progress.message(f"message {number} {i}")
                    progress.start(f"stage {number} {i}", 30, "things")
        except BaseException as error:
            failures.append(error)

    with progress:
        progress.start("a", 30, "things")
        threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert not any(thread.is_alive() for thread in threads)
    assert failures == []


def test_message_stays_as_it_was_written(showing: Progress, output: StringIO) -> None:
    text = "see [bold]/a/very/long/path" + "/that/somebody/copies" * 8 + "[/bold] :warning: 50 %"
    with showing:
        showing.start("a", 4, "things")
        showing.message(text)
    assert text in output.getvalue()


def test_every_stage_is_named_with_its_units(showing: Progress, clock: Clock, output: StringIO) -> None:
    with showing:
        showing.plan({"teachers": 1.0, "trials": 3.0})
        showing.start("teachers", 8, "teachers")
        clock.seconds += 5.0
        showing.advance(8)
        showing.start("trials", 16, "trials")
    text = output.getvalue()
    assert "8 teachers" in text
    assert "16 trials" in text
    assert text.index("8 teachers") < text.index("16 trials")


def test_time_left_is_never_negative(showing: Progress, clock: Clock, output: StringIO) -> None:
    with showing:
        showing.plan({"a": 1.0, "b": 1.0})
        showing.start("a", 4, "things")
        for done in (1, 3, 2, 4):
            clock.seconds += 30.0
            showing.advance(done)
        clock.seconds += 1000.0
        showing.advance(4)
        showing.start("b", 2, "things")
        clock.seconds += 1000.0
        showing.advance(1)
        clock.seconds += 5000.0
        showing.advance(1)
    assert "about" in output.getvalue() or "estimating" in output.getvalue()
    assert not re.search(r"-\s*[0-9]", output.getvalue())
