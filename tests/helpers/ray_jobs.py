"""Jobs that the workers of tests import."""

from __future__ import annotations

import os
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


def die_once(work: Workspace, name: str, reporter: Reporter) -> None:
    """Kill this process, the first time."""
    mark = Path(work.config.storage.root, f"{name}-died")
    if not mark.exists():
        mark.touch()
        os._exit(1)
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
