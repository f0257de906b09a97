from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import pytest

from dim_ray.distributed.cluster import own_ray
from tests.helpers.ray_cluster import RayCluster
from tests.helpers.ray_nodes import wait_for_nodes
from tests.helpers.runs import LEAVE_SECONDS, marked_processes

LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}  # as /proc writes it
LISTENS = "0A"
MARK = "DIM_RAY_TEST_OWN"
DRIVER = """
import sys
import ray
from dim_ray.config import Config, StudyConfig
from dim_ray.distributed.cluster.joining import cluster
from dim_ray.progress import SilentProgress

with cluster(Config(study=StudyConfig(workers_per_trial=2)), SilentProgress()):
    worker_address = ray.get(ray.remote(ray.util.get_node_ip_address).remote())
    # What is printed goes to the log meanwhile.
    print(worker_address, ray.get_runtime_context().gcs_address, file=sys.__stdout__, flush=True)
    sys.stdin.readline()
"""


class Driver:
    """A process that starts a Ray of its own and keeps it."""

    def __init__(self, home: Path) -> None:
        self._mark = uuid.uuid4().hex
        environment = {
            name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_MODE")
        }
        environment |= {MARK: self._mark, "HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2])}
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.worker_address, _, self.address = self.process.stdout.readline().strip().partition(" ")

    def processes(self) -> dict[int, str]:
        return marked_processes(MARK, self._mark)

    def end(self) -> None:
        """Let it end by itself."""
        self.process.communicate("\n", timeout=120)

    def seconds_until_gone(self) -> float:
        """Wait until none of its processes is left; kill them and fail if that takes too long."""
        began = time.monotonic()
        while left := self.processes():
            if time.monotonic() - began > LEAVE_SECONDS:
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                pytest.fail(f"still there: {left}")
            time.sleep(0.2)
        return time.monotonic() - began


def listening_addresses(processes: Mapping[int, str]) -> set[str]:
    """Return the local addresses on which processes listen, in hexadecimal digits."""
    inodes = set()
    for pid in processes:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes |= set(re.findall(r"socket:\[(\d+)\]", str(link.readlink())))
            except FileNotFoundError:  # closed meanwhile
                continue
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table]
    return {row[1].partition(":")[0] for row in rows if row[3] == LISTENS and row[9] in inodes}


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")  # empty is none; and what is set is taken back afterwards
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    return tmp_path


def test_only_its_owner_can_read_the_token(home: Path) -> None:
    own_ray._provide_token()
    token = home / ".ray" / "auth_token"
    text = token.read_text()
    assert len(text) == 64
    assert token.stat().st_mode & 0o777 == 0o600
    token.chmod(0o644)  # as Ray itself leaves it
    own_ray._provide_token()
    assert (token.read_text(), token.stat().st_mode & 0o777) == (text, 0o600)
    assert os.environ["RAY_AUTH_TOKEN"] == ""


@pytest.mark.parametrize("case", ["a file", "missing", "relative", "empty token", "token of two lines", "wrong path"])
def test_token_is_in_the_environment_where_no_file_can_have_it(
    case: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = home / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text({"empty token": "", "token of two lines": "one\ntwo"}.get(case, "whole"))
    homes = {"a file": str(token), "missing": str(home / "none"), "relative": "home"}
    monkeypatch.setenv("HOME", homes.get(case, str(home)))
    if case == "wrong path":
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "none"))
    before = token.read_text()
    own_ray._provide_token()
    assert re.fullmatch("[0-9a-f]{64}", os.environ["RAY_AUTH_TOKEN"])
    assert token.read_text() == before
    assert sorted(path.name for path in home.iterdir()) == [".ray"]


@pytest.mark.parametrize("value", ["chosen", "two\nlines", "é"])
def test_token_of_the_environment_is_used_unless_grpc_would_end_the_process(
    value: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", value)
    own_ray._provide_token()
    assert (os.environ["RAY_AUTH_TOKEN"] == value) is (value == "chosen")
    assert not list(home.iterdir())


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_own_ray_listens_on_loopback_and_is_gone_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    try:
        processes = driver.processes()
        assert any("gcs_server" in command for command in processes.values())
        assert any("dashboard" in command for command in processes.values())
        addresses = listening_addresses(processes)
        assert addresses
        assert addresses <= LOOPBACK
        assert driver.worker_address == "127.0.0.1"
        assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
    finally:
        driver.process.kill()
        driver.process.communicate()
    driver.seconds_until_gone()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_cluster_that_runs_on_the_machine_is_neither_joined_nor_disturbed(tmp_path: Path) -> None:
    with RayCluster(num_nodes=0) as cluster:
        wait_for_nodes(cluster.address, 1)
        before = {pid: command for pid, command in cluster.head.processes().items() if "ray::" not in command}
        driver = Driver(tmp_path)
        try:
            assert driver.address
            assert driver.address != cluster.address
            driver.end()
        finally:
            driver.process.kill()
            driver.process.communicate()
        driver.seconds_until_gone()
        wait_for_nodes(cluster.address, 1)
        after = cluster.head.processes()
        assert {pid: after.get(pid) for pid in before} == before
