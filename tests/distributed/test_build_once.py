"""Two drivers on one cluster that need the same networks at the same time."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from dim_ray.distributed.claims import LEASE_SECONDS
from tests.helpers.builder import CAPACITIES, POOL_SIZE, trainings
from tests.helpers.ray_nodes import SECONDS, command_environment, nodes

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NUM_NETWORKS = POOL_SIZE + len(CAPACITIES)
LOOK_SECONDS = 5.0
"""Within which a waiting study notices that something is free; it looks once a second."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with nodes({}, num_cpus=NUM_NETWORKS + 1) as address:  # one study leaves a core to the other
        yield address


@contextmanager
def driver(address: str, storage: Path, study: str, seconds: float, file: str) -> Iterator[subprocess.Popen[str]]:
    """Runs a study that takes so many seconds to store a network, and begins when a file is there."""
    code = "from tests.helpers.builder import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(storage), study, str(seconds), file],
        env=command_environment(address),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def end(process: subprocess.Popen[str]) -> None:
    """Waits for a good end."""
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors


def until(condition: Callable[[], object]) -> None:
    """Waits until something is so."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_networks_that_two_studies_need_at_once_are_trained_once(address: str, tmp_path: Path) -> None:
    with (
        driver(address, tmp_path, "digits", 5.0, "mnist.joined") as first,
        driver(address, tmp_path, "mnist", 5.0, "digits.joined") as second,
    ):
        end(first)
        end(second)
    trained = [note["network"] for note in trainings(tmp_path)]
    assert len(trained) == len(set(trained)) == NUM_NETWORKS
    said = "".join((tmp_path / "notes" / f"{study}.progress").read_text() for study in ("digits", "mnist"))
    assert re.search(
        r"waiting for (teacher \d|prior of capacity \d).*, which study (digits|mnist) builds$", said, re.MULTILINE
    )


def test_networks_of_a_study_that_was_killed_are_free_within_the_lease(address: str, tmp_path: Path) -> None:
    log = tmp_path / "notes" / "mnist.log"
    with (
        driver(address, tmp_path, "digits", 600.0, "digits.joined") as first,
        driver(address, tmp_path, "mnist", 0.0, "trainings") as second,
    ):
        until(lambda: log.exists() and "Now waiting for" in log.read_text())
        begun = {note["network"]: note["pid"] for note in trainings(tmp_path) if note["study"] == "digits"}
        killed_at = time.time()
        first.kill()
        for pid in begun.values():
            with suppress(ProcessLookupError):  # Ray may have been quicker
                os.kill(pid, signal.SIGKILL)
        end(second)
    assert begun
    taken_over = [note["network"] for note in trainings(tmp_path) if note["study"] == "mnist"]
    assert set(begun) <= set(taken_over)
    assert len(taken_over) == NUM_NETWORKS
    ends = [float(line.split()[0]) for line in log.read_text().splitlines() if " Waited " in line]
    assert ends
    assert all(0 < end - killed_at < LEASE_SECONDS + LOOK_SECONDS for end in ends)
