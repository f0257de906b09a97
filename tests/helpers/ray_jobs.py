"""Jobs that the workers of tests import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import ray
import torch

from dim_ray.core.training.ports import Reporter
from dim_ray.errors import DataError
from dim_ray.pipeline.workspace import Workspace


def note(work: Workspace, name: str, reporter: Reporter) -> None:
    """Write a file, and report two steps."""
    reporter.report(1, 2, {})
    Path(work.config.storage.root, name).write_text(str(torch.get_num_threads()))
    reporter.report(2, 2, {})


def note_name(work: Workspace, file: str, reporter: Reporter) -> None:
    """Write a file with the name that Ray has for this task."""
    Path(work.config.storage.root, file).write_text(ray.get_runtime_context().get_task_name() or "")


def fail(work: Workspace, name: str, reporter: Reporter) -> None:
    """Fail with an error for the user."""
    raise DataError(f"row 7 of {name} is broken; mend it.")


def break_down(work: Workspace, name: str, reporter: Reporter) -> None:
    """Fail with a defect."""
    raise ZeroDivisionError(name)


def die_first(work: Workspace, argument: tuple[str, int], reporter: Reporter) -> None:
    """Kill this process a number of times, as on a machine without memory; then write a file."""
    name, num_deaths = argument
    marks = [Path(work.config.storage.root, f"{name}-died-{number}") for number in range(num_deaths)]
    if left := [mark for mark in marks if not mark.exists()]:
        left[0].touch()
        os.kill(os.getpid(), signal.SIGKILL)
    note(work, name, reporter)


def die(work: Workspace, name: str, reporter: Reporter) -> None:
    """Kill this process."""
    os._exit(1)


def sleep(work: Workspace, seconds: float, reporter: Reporter) -> None:
    """Write the process id to a file, and sleep."""
    began = Path(work.config.storage.root, "began")
    began.with_suffix(".part").write_text(str(os.getpid()))
    began.with_suffix(".part").rename(began)
    time.sleep(seconds)


def wait_then_fail(work: Workspace, name: str, reporter: Reporter) -> Any:
    """Fail once another job runs."""
    while not Path(work.config.storage.root, "began").exists():
        time.sleep(0.05)
    fail(work, name, reporter)


def wait_for_room(work: Workspace, cpus: float, reporter: Reporter) -> None:
    """Wait until so many cores are free, for a minute."""
    until = time.monotonic() + 60.0
    while ray.available_resources().get("CPU", 0.0) < cpus:
        assert time.monotonic() < until
        time.sleep(0.1)


def meet(work: Workspace, argument: tuple[str, int], reporter: Reporter) -> None:
    """Write a file, and wait until there are so many."""
    name, count = argument
    folder = Path(work.config.storage.root)
    (folder / name).touch()
    until = time.monotonic() + 60.0
    while len([*folder.glob("file-*")]) < count:
        assert time.monotonic() < until
        time.sleep(0.05)


def note_times(work: Workspace, argument: tuple[str, float], reporter: Reporter) -> None:
    """Sleep, and write the process id and when that began and ended."""
    name, seconds = argument
    began = time.time()
    time.sleep(seconds)
    Path(work.config.storage.root, name).write_text(f"{os.getpid()} {began} {time.time()}")
