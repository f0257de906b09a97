from __future__ import annotations

import io
import os
import pty
import re
import select
import subprocess
import sys
from io import StringIO

import pytest
from rich.console import Console
from rich.text import Text

from dim_ray.progress import PrefixedProgress, Progress, make_progress
from dim_ray.progress.displays import LiveProgress, PlainProgress
from dim_ray.progress.stages import Stages, format_duration, format_time_left
from tests.contracts.test_progress_contract import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stages(clock: Clock) -> Stages:
    return Stages(clock)


# ------------------------------------------------------------------------------------------------ time left


def test_nothing_is_known_before_work_is_reported(clock: Clock, stages: Stages) -> None:
    stages.plan({"a": 10.0, "b": 30.0})
    assert (stages.stage_seconds_left(), stages.run_seconds_left()) == (None, None)
    stages.start("a", 4, "things")
    clock.seconds += 7.0
    assert (stages.stage_seconds_left(), stages.run_seconds_left()) == (None, None)


def test_stage_goes_on_at_its_speed_and_the_run_at_its_scale(clock: Clock, stages: Stages) -> None:
    stages.plan({"a": 10.0, "b": 30.0})
    stages.start("a", 4, "things")
    stages.advance(0)
    clock.seconds += 10.0
    stages.advance(1)
    assert stages.stage_seconds_left() == pytest.approx(30.0)
    # a takes 40 seconds for its 10 units of cost, so b will take 120 for its 30
    assert stages.run_seconds_left() == pytest.approx(150.0)
    clock.seconds += 4.0
    assert stages.stage_seconds_left() == pytest.approx(26.0)
    assert stages.run_seconds_left() == pytest.approx(146.0)


def test_stage_that_is_overdue_has_no_time_left_and_owes_none_to_the_run(clock: Clock, stages: Stages) -> None:
    stages.plan({"a": 10.0, "b": 10.0})
    stages.start("a", 2, "things")
    stages.advance(0)
    clock.seconds += 10.0
    stages.advance(1)
    clock.seconds += 90.0  # the second thing should have taken 10
    assert stages.stage_seconds_left() == 0.0
    assert stages.run_seconds_left() == pytest.approx(100.0)


def test_run_after_a_stage_is_scaled_by_what_it_really_took(clock: Clock, stages: Stages) -> None:
    stages.plan({"a": 10.0, "b": 30.0, "c": 10.0})
    stages.start("a", 4, "things")
    clock.seconds += 5.0
    stages.start("b", 100, "things")
    assert stages.stage_seconds_left() is None
    assert stages.run_seconds_left() == pytest.approx(0.5 * 40.0)
    clock.seconds += 60.0  # longer than b should have taken in all
    assert stages.run_seconds_left() is None


def test_work_found_done_says_nothing_about_speed(clock: Clock, stages: Stages) -> None:
    stages.plan({"a": 50.0, "b": 50.0})
    stages.start("a", 100, "things")
    clock.seconds += 0.1
    stages.advance(50)  # from a checkpoint
    assert stages.stage_seconds_left() is None
    clock.seconds += 10.0
    stages.advance(60)
    assert stages.stage_seconds_left() == pytest.approx(40.0)
    assert stages.run_seconds_left() == pytest.approx(40.0 + 100.0)


def test_stage_that_took_no_time_does_not_make_the_rest_look_short(clock: Clock, stages: Stages) -> None:
    stages.plan({"a": 50.0, "b": 10.0, "c": 10.0})
    stages.start("a", 8, "things")
    clock.seconds += 0.2
    stages.advance(8)
    stages.start("b", 2, "things")
    stages.advance(0)
    assert stages.run_seconds_left() is None
    clock.seconds += 10.0
    stages.advance(1)
    assert stages.run_seconds_left() == pytest.approx(10.0 + 20.0)


def test_start_of_processes_is_not_taken_for_slow_work(clock: Clock, stages: Stages) -> None:
    stages.plan({"a": 10.0, "b": 10.0})
    stages.start("a", 4, "things")
    clock.seconds += 20.0
    stages.advance(0)  # the work begins
    assert stages.stage_seconds_left() is None
    clock.seconds += 10.0
    stages.advance(1)
    assert stages.stage_seconds_left() == pytest.approx(30.0)
    assert stages.run_seconds_left() == pytest.approx(30.0 + 60.0)  # b's processes have to start too


def test_speed_is_that_of_the_last_minute(clock: Clock, stages: Stages) -> None:
    stages.start("a", 1000, "things")
    for _ in range(100):
        clock.seconds += 1.0
        stages.advance(stages.stages[0].done + 1)
    for _ in range(70):
        clock.seconds += 1.0
        stages.advance(stages.stages[0].done + 5)
    assert stages.stage_seconds_left() == pytest.approx((1000 - 450) / 5)


def test_reports_by_the_thousand_take_no_memory_and_change_no_estimate(clock: Clock, stages: Stages) -> None:
    stages.start("a", 100_000, "steps")
    for step in range(1, 20_001):
        clock.seconds += 0.001
        stages.advance(step)
    assert stages.stage_seconds_left() == pytest.approx(80.0, rel=0.02)
    assert len(stages.stages[0].samples) < 400


def test_stages_that_are_jumped_over_are_left_out_of_the_time(clock: Clock, stages: Stages) -> None:
    stages.plan({"a": 1.0, "b": 100.0, "c": 1.0})
    stages.start("a", 1, "things")
    clock.seconds += 10.0
    stages.start("c", 1, "things")
    assert [stage.state for stage in stages.stages] == ["done", "left_out", "running"]
    assert stages.run_seconds_left() == pytest.approx(10.0)


def test_stage_outside_of_the_plan_comes_before_what_is_planned(clock: Clock, stages: Stages) -> None:
    stages.plan({"a": 1.0, "b": 1.0})
    stages.start("a", 1, "things")
    stages.start("surprise", 1, "things")
    assert [stage.name for stage in stages.stages] == ["a", "surprise", "b"]
    assert [stage.state for stage in stages.stages] == ["done", "running", "waiting"]


def test_new_plan_keeps_what_has_begun(clock: Clock, stages: Stages) -> None:
    stages.plan({"a": 1.0, "b": 1.0, "c": 1.0})
    stages.start("a", 2, "things")
    clock.seconds += 10.0
    stages.start("b", 2, "things")
    stages.plan({"a": 10.0, "b": 20.0, "d": 5.0})
    assert [(stage.name, stage.weight, stage.state) for stage in stages.stages] == [
        ("a", 10.0, "done"),
        ("b", 20.0, "running"),
        ("d", 5.0, "waiting"),
    ]
    assert stages.run_seconds_left() == pytest.approx(25.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0.0 s"), (12.34, "12.3 s"), (59.94, "59.9 s"), (59.96, "1 min 0 s"), (112.0, "1 min 52 s"),
     (3599.6, "1 h 0 min"), (7500.0, "2 h 5 min")],
)  # fmt: skip
def test_duration_is_written_for_a_person(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "estimating"), (0.0, "about 1 s left"), (3.2, "about 4 s left"), (31.0, "about 35 s left"),
     (58.0, "about 1 min left"), (110.0, "about 1 min 50 s left"), (7300.0, "about 2 h 1 min left")],
)  # fmt: skip
def test_time_left_is_rounded_to_what_it_is_worth(seconds: float | None, text: str) -> None:
    assert format_time_left(seconds) == text


# ------------------------------------------------------------------------------------------------ live


def live(clock: Clock, width: int = 100) -> tuple[LiveProgress, StringIO]:
    output = StringIO()
    console = Console(file=output, force_terminal=True, width=width, height=24, color_system=None)
    return LiveProgress(console, clock=clock, is_refreshed=False), output


def last_frame(output: StringIO) -> list[str]:
    """The lines that stand on the terminal since the display was drawn last."""
    text = re.split(r"\x1b\[2K|\x1b\[1A|\r", output.getvalue())[-1]
    return [line.rstrip() for line in Text.from_ansi(text).plain.splitlines()]


def run_half(progress: Progress, clock: Clock) -> None:
    progress.plan({"teachers": 10.0, "priors": 10.0, "trials": 60.0, "final students": 20.0})
    progress.start("teachers", 8, "teachers")
    clock.seconds += 12.3
    progress.advance(8)
    progress.start("trials", 16, "trials")
    progress.advance(0)
    clock.seconds += 30.0
    progress.advance(5.25, "epoch 3")
    progress.status("5 done (1 stopped), 2 running; best validation accuracy 96.1 %")


def interrupt_half_way(progress: Progress, clock: Clock) -> None:
    with progress:
        run_half(progress, clock)
        raise KeyboardInterrupt


def test_live_display_shows_what_is_done_what_runs_and_what_comes(clock: Clock) -> None:
    progress, output = live(clock)
    with progress:
        run_half(progress, clock)
        progress._live.refresh()
        lines = last_frame(output)
    assert lines[0] == "42.3 s elapsed, about 1 min 40 s left"
    assert re.fullmatch(r"✓ teachers +8 teachers +12\.3 s", lines[1])
    assert re.fullmatch(r"  priors +not needed", lines[2])
    assert re.fullmatch(r"▸ trials +[━╸╺]+ +5\.2/16 trials +about 1 min 10 s left", lines[3])
    assert lines[4] == "  final students"
    assert lines[5] == "  5 done (1 stopped), 2 running; best validation accuracy 96.1 %; epoch 3"
    assert len(lines) == 6


def test_live_display_is_estimating_until_something_is_known(clock: Clock) -> None:
    progress, output = live(clock)
    with progress:
        progress.plan({"teachers": 10.0})
        progress.start("teachers", 8, "teachers")
        lines = last_frame(output)
    assert lines[0] == "0.0 s elapsed, estimating the time left"
    assert lines[1].endswith("0/8 teachers estimating")


@pytest.mark.parametrize("width", [100, 60, 40, 20])
def test_no_line_of_the_live_display_is_wider_than_the_terminal(clock: Clock, width: int) -> None:
    progress, output = live(clock, width)
    with progress:
        run_half(progress, clock)
        progress._live.refresh()
        lines = last_frame(output)
    assert max(map(len, lines)) <= width
    assert "tr" in "".join(lines)


def test_at_60_columns_nothing_is_cut_off(clock: Clock) -> None:
    progress, output = live(clock, 60)
    with progress:
        run_half(progress, clock)
        progress._live.refresh()
        lines = last_frame(output)
    assert "…" not in "".join(lines)
    assert re.fullmatch(r"▸ trials +[━╸╺]+ +5\.2/16 trials +about 1 min 10 s left", lines[3])


def test_finished_run_leaves_its_checklist_and_the_cursor(clock: Clock) -> None:
    progress, output = live(clock)
    with progress:
        run_half(progress, clock)
    lines = last_frame(output)
    assert lines[0] == "42.3 s elapsed"
    assert re.fullmatch(r"✓ trials +16 trials +30\.0 s", lines[3])
    assert output.getvalue().rindex("\x1b[?25h") > output.getvalue().rindex("\x1b[?25l")


def test_interrupted_run_says_where_it_stopped_and_gives_the_cursor_back(clock: Clock) -> None:
    progress, output = live(clock)
    with pytest.raises(KeyboardInterrupt):
        interrupt_half_way(progress, clock)
    assert re.fullmatch(r"✗ trials +5\.2/16 trials stopped after 30\.0 s", last_frame(output)[3])
    assert output.getvalue().rindex("\x1b[?25h") > output.getvalue().rindex("\x1b[?25l")


def test_message_is_written_once_and_not_drawn_over(clock: Clock) -> None:
    progress, output = live(clock)
    with progress:
        run_half(progress, clock)
        progress.message("a result")
        clock.seconds += 30.0
        progress._live.refresh()
    assert output.getvalue().count("a result") == 1
    assert not any("a result" in line for line in last_frame(output))


def test_numbers_of_one_stage_are_not_shown_with_the_next(clock: Clock) -> None:
    progress, output = live(clock)
    with progress:
        run_half(progress, clock)
        progress.start("final students", 12, "students")
    assert "running" not in "".join(last_frame(output))


def test_terminal_without_unicode_gets_letters(clock: Clock) -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    console = Console(file=file, force_terminal=True, width=80, height=24, color_system=None)
    with pytest.raises(KeyboardInterrupt):
        interrupt_half_way(LiveProgress(console, clock=clock, is_refreshed=False), clock)
    text = raw.getvalue().decode("ascii")
    assert "+ teachers" in text
    assert "> trials" in text
    assert "x trials" in text


# ------------------------------------------------------------------------------------------------ plain


@pytest.fixture
def plain(clock: Clock) -> tuple[PlainProgress, StringIO]:
    output = StringIO()
    return PlainProgress(Console(file=output, width=40), clock=clock), output


def test_plain_lines_come_at_start_and_end_and_every_20_seconds(
    plain: tuple[PlainProgress, StringIO], clock: Clock
) -> None:
    progress, output = plain
    with progress:
        progress.plan({"trials": 10.0, "students": 10.0})
        progress.start("trials", 16, "trials")
        for step in range(45):
            clock.seconds += 1.0
            progress.advance((step + 1) / 10, "epoch 3")
            progress.status(f"{step // 10} done, 2 running")
        progress.start("students", 3, "students")
    assert output.getvalue().splitlines() == [
        "[0.0 s] trials: started, 16 trials",
        "[20.0 s] trials: 2 of 16 trials; 1 done, 2 running; epoch 3; "
        "stage about 2 min 20 s left; run about 5 min left",
        "[40.0 s] trials: 4 of 16 trials; 3 done, 2 running; epoch 3; "
        "stage about 2 min left; run about 4 min 40 s left",
        "[45.0 s] trials: finished after 45.0 s; 4 done, 2 running",
        "[45.0 s] students: started, 3 students",
        "[45.0 s] students: finished after 0.0 s",
    ]


def test_plain_says_where_an_interrupted_stage_stopped(plain: tuple[PlainProgress, StringIO], clock: Clock) -> None:
    progress, output = plain
    with pytest.raises(KeyboardInterrupt):
        interrupt_half_way(progress, clock)
    assert output.getvalue().splitlines()[-1] == (
        "[42.3 s] trials: stopped at 5.2 of 16 trials after 30.0 s; "
        "5 done (1 stopped), 2 running; best validation accuracy 96.1 %"
    )


def test_plain_output_has_no_control_characters(plain: tuple[PlainProgress, StringIO], clock: Clock) -> None:
    progress, output = plain
    with progress:
        progress.start("trials", 16, "trials")
        clock.seconds += 30.0
        progress.advance(3)
        progress.message("done [/x] :smile:")
    assert "\x1b" not in output.getvalue()
    assert "done [/x] :smile:\n" in output.getvalue()


def test_one_of_several_parts_shows_its_name_and_leaves_the_display_as_it_is(
    plain: tuple[PlainProgress, StringIO], clock: Clock
) -> None:
    progress, output = plain
    with progress:
        progress.plan({"mnist: trials": 10.0, "svhn: trials": 10.0})
        for name in ("mnist", "svhn"):
            with PrefixedProgress(progress, f"{name}: ") as part:
                part.plan({"trials": 10.0})
                part.start("trials", 4, "trials")
                clock.seconds += 20.0
                part.advance(3, "epoch 3")
                part.status("3 done, 1 running")
                part.message("a warning")
    assert output.getvalue().splitlines() == [
        "[0.0 s] mnist: trials: started, 4 trials",
        "[20.0 s] mnist: trials: 3 of 4 trials; epoch 3; stage estimating; run estimating",
        "mnist: a warning",
        "[20.0 s] mnist: trials: finished after 20.0 s; 3 done, 1 running",
        "[20.0 s] svhn: trials: started, 4 trials",
        "[40.0 s] svhn: trials: 3 of 4 trials; epoch 3; stage estimating; run estimating",
        "svhn: a warning",
        "[40.0 s] svhn: trials: finished after 20.0 s; 3 done, 1 running",
    ]


# ------------------------------------------------------------------------------------------------ choice


def test_terminal_gets_the_live_display_and_everything_else_plain_lines() -> None:
    assert isinstance(make_progress(Console(file=StringIO(), force_terminal=True)), LiveProgress)
    assert isinstance(make_progress(Console(file=StringIO())), PlainProgress)
    dumb = Console(file=StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    assert isinstance(make_progress(dumb), PlainProgress)


CHILD = """
import sys
from dim_ray.progress import make_progress
with make_progress() as progress:
    progress.start("teachers", 2, "teachers")
    print("a result")
    print("a library's warning", file=sys.stderr)
    if len(sys.argv) > 1:
        raise KeyboardInterrupt
"""


def test_progress_goes_to_stderr_and_leaves_stdout_to_results() -> None:
    child = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    assert child.stdout == "a result\n"
    assert "teachers: started" in child.stderr


def test_on_a_real_terminal_a_piped_stdout_stays_clean_and_the_cursor_comes_back() -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    try:
        child = subprocess.run(
            [sys.executable, "-c", CHILD, "x"], stdout=subprocess.PIPE, stderr=theirs, env=environment, timeout=30
        )
        text = b""
        while select.select([ours], [], [], 0)[0]:
            text += os.read(ours, 65536)
    finally:
        os.close(ours)
        os.close(theirs)
    shown = text.decode()
    assert child.stdout == b"a result\n"
    assert "a library's warning" in shown
    assert "stopped after" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert "KeyboardInterrupt" in shown


def test_importing_progress_loads_nothing_heavy() -> None:
    code = "import sys, dim_ray.progress; assert not {'rich', 'torch', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_notebook_gets_plain_lines_on_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JPY_PARENT_PID", "1")  # what a kernel has, and what it gives to a command after "!"
    monkeypatch.setenv("FORCE_COLOR", "1")
    with make_progress() as progress:
        progress.start("teachers", 2, "teachers")
    captured = capsys.readouterr()
    assert captured.out.startswith("[0.0 s] teachers: started, 2 teachers\n")
    assert captured.err == ""
