"""Real runs of `python -m dim_ray.tune` in processes of their own, with stages of a second."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from dim_ray.store.reader import Reader

SECONDS = 600.0
"""Within which a run has to end, all waits for it included; the machine may be busy with other things."""


def space(changes: Mapping[str, Any]) -> str:
    """Return a flag's value without blanks: a small space with other choices for some fields."""
    usual = {
        "pool.size": [1, 2],
        "generator.capacity": [4],
        "matching.weight": {"low": 0.01, "high": 1.0, "log": True},
        "matching.adversarial_weight": {"low": 0.5, "high": 3.0, "log": True},
    }
    return json.dumps({**usual, **changes}, separators=(",", ":"))


FLAGS: Mapping[str, str] = {
    "--networks.teachers": "convnet3_w8",
    "--networks.students": "convnet3_w8",
    "--pool.epochs": "1",
    "--pool.num_snapshots": "2",
    "--prior.epochs": "1",
    "--prior.batch_size": "128",
    "--matching.epochs": "2",
    "--matching.batch_size": "128",
    "--ipc": "1 2",
    "--evaluation.epochs": "1",
    "--evaluation.min_steps": "2",
    "--evaluation.num_seeds": "2",
    "--study.space": space({}),
    "--study.grace_epochs": "1",
    "--study.contender_seeds": "2",
    "--study.selection_images_per_class": "2",
    "--study.control": "false",
    "--num-trials": "2",
}
ONE_STUDENT = {
    "--ipc": "1",
    "--evaluation.protocols": "on_the_fly",
    "--evaluation.num_seeds": "1",
    "--study.contenders": "1",
}
"""As little evaluation as there can be, where a test is about something else."""
LONG = {**ONE_STUDENT, "--matching.epochs": "15", "--study.grace_epochs": "15", "--storage.checkpoint_seconds": "0"}
"""Trials of several seconds, which save their state after every step."""
LEAVE_SECONDS = 30.0
"""Within which every process of a run has to be gone, on a busy machine, too."""
NO_TOKEN = {"RAY_AUTH_MODE": "disabled"}
"""Environment of a cluster, and of those who join it: Ray asks for tokens by default, but doesn't send them."""
_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
_MARK = "DIM_RAY_TEST_RUN"  # inherited by every process that a run starts, Ray's included


def arguments(storage: Path | str, changes: Mapping[str, str] | None = None) -> list[str]:
    """Return those of the command, with flags beside or instead of `FLAGS`."""
    flags = {**FLAGS, "--storage": str(storage), **(changes or {})}
    return [word for flag, value in flags.items() for word in (flag, *value.split())]


class Run:
    """One run of the command.

    Args:
        storage: Its root; a string that of an object store.
        changes: Flags beside or instead of `FLAGS`.
        address: Of a Ray cluster to join.
    """

    def __init__(
        self, storage: Path | str, changes: Mapping[str, str] | None = None, *, address: str | None = None
    ) -> None:
        self.storage = storage
        self._mark = uuid.uuid4().hex
        # Its own session, so that nothing of ours goes to it by accident; one thread, as on a busy machine.
        environment = {**os.environ, _MARK: self._mark, "OMP_NUM_THREADS": "1"}
        environment.pop("RAY_ADDRESS", None)
        if address is not None:
            environment |= {"RAY_ADDRESS": address, **NO_TOKEN}
        self._started_at = time.monotonic()
        self.returncode: int | None = None
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dim_ray.tune", *arguments(storage, changes)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
        self.stdout = self.stderr = ""
        self.seconds = 0.0

    @property
    def pid(self) -> int:
        """Of the driver."""
        return self._process.pid

    def end(self) -> None:
        """Wait for the run's end."""
        try:
            self.stdout, self.stderr = self._process.communicate(timeout=max(1.0, self._seconds_left()))
        except subprocess.TimeoutExpired:
            self.clear()
            raise AssertionError(f"no end after {SECONDS} s:\n{self.stdout}\n{self.stderr}\n{self.log()}") from None
        self.seconds = time.monotonic() - self._started_at
        self.returncode = self._process.returncode

    def kill(self) -> None:
        """Kill the driver, and wait until its workers have noticed."""
        self._process.kill()
        self.stdout, self.stderr = self._process.communicate()
        while self.processes():
            assert self._seconds_left() > 0, self.processes()
            time.sleep(0.1)

    def clear(self) -> None:
        """Kill all its processes."""
        if self._process.poll() is None:
            self._process.kill()
            self.stdout, self.stderr = self._process.communicate()
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Wait until a condition is true while the run continues."""
        while not condition():
            if self._process.poll() is not None or self._seconds_left() < 0:
                self.clear()
                raise AssertionError(f"never: {what}\n{self.stdout}\n{self.stderr}\n{self.log()}")
            time.sleep(0.05)

    def wait_for_state(self, trial: int = 0) -> None:
        """Wait until a trial has begun and has a checkpoint."""
        self.wait_for(lambda: f"Trial {trial} began" in self.log(), f"trial {trial}")
        self.wait_for(lambda: list(Path(self.storage).glob("studies/*/checkpoints/[!.]*")), "its state")

    def kill_process(self, command: str, num_alike: int = 1) -> None:
        """Kill the last of the processes whose command line contains this."""
        found = [pid for pid, own in self.processes().items() if command in own]
        assert len(found) == num_alike, found
        os.kill(found[-1], signal.SIGKILL)

    def processes(self) -> dict[int, str]:
        """Return the processes of this run that are still there: command lines by process id."""
        return marked_processes(_MARK, self._mark)

    def leftovers(self) -> dict[int, str]:
        """Return the processes that are still there some time after the end, and kill them."""
        until = time.monotonic() + LEAVE_SECONDS
        while self.processes() and time.monotonic() < until:
            time.sleep(0.2)
        left = self.processes()
        self.clear()
        return left

    def log(self) -> str:
        """Return the text of the study's log; empty on an object store."""
        if isinstance(self.storage, str):
            return ""
        return "".join(file.read_text() for file in self.storage.glob("studies/*/study.log"))

    def _seconds_left(self) -> float:
        return self._started_at + SECONDS - time.monotonic()


def run(storage: Path | str, changes: Mapping[str, str] | None = None) -> Run:
    """Run the command to its end."""
    started = Run(storage, changes)
    started.end()
    return started


def marked_processes(name: str, value: str) -> dict[int, str]:
    """Return the processes with this variable in their environment: command lines by process id.

    Ray's agents are left out: after a kill they try for a minute to reach Ray's store.
    """
    found = {}
    mark = f"{name}={value}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                # Without a command it has ended, and waits for its parent to notice.
                if command and not command.startswith(_AGENTS):
                    found[int(folder.name)] = command
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def trials(storage: Path | str) -> pd.DataFrame:
    """Return the rows of all trials, by number."""
    return Reader(str(storage)).trials().sort_values("number", ignore_index=True)


def evaluations(storage: Path | str) -> pd.DataFrame:
    """Return the rows of all evaluations."""
    return Reader(str(storage)).evaluations()


def validations(storage: Path) -> pd.DataFrame:
    """Return the rows of all students of contenders."""
    return Reader(str(storage)).validations()


def files(storage: Path) -> dict[str, tuple[int, bytes]]:
    """Return the time of writing and the contents of every row and artefact, by path."""
    return {
        str(path.relative_to(storage)): (path.stat().st_mtime_ns, path.read_bytes())
        for kind in ("trials", "validations", "evaluations", "teachers", "priors", "generators")
        for path in (storage / kind).rglob("*")
        if path.is_file()
    }
