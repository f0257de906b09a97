"""A Ray cluster of this machine, each node by `ray start`, whose processes can be killed one by one or all at once.

with RayCluster(num_nodes=2) as cluster:
    Run(storage, address=cluster.address)
    kill(cluster.find("ray::ImplicitFunc"))
    cluster.lose(cluster.nodes[0])
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.helpers.runs import NO_TOKEN, marked_processes

_START_SECONDS = 180.0
_STARTED = "Ray runtime started."
_MARK = "DIM_RAY_TEST_NODE"  # inherited by every process of a node
_STORE_BYTES = 100 * 1024 * 1024  # of a node's objects; by default Ray books a third of the memory for each


class Node:
    """One `ray start --block`, and what it started.

    Args:
        arguments: Of `ray start`.
        log: Receives what it prints.
    """

    def __init__(self, arguments: Iterable[str], log: Path) -> None:
        self._mark = uuid.uuid4().hex
        self._log = log
        root = str(Path(__file__).parents[2])
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        environment |= {**NO_TOKEN, _MARK: self._mark, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
        environment |= {"PYTHONUNBUFFERED": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        # Ports of the workers as Ray finds them free: several nodes share this machine.
        common = ["--block", "--min-worker-port=0", "--max-worker-port=0", f"--object-store-memory={_STORE_BYTES}"]
        common.append(f"--dashboard-agent-listen-port={_free_port()}")  # without it no jobs can be submitted
        with log.open("w") as output:
            self._process = subprocess.Popen(
                [str(Path(sys.executable).with_name("ray")), "start", *arguments, *common],
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
        until = time.monotonic() + _START_SECONDS
        while _STARTED not in log.read_text():
            if self._process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise AssertionError(f"a node didn't start:\n{log.read_text()}")
            time.sleep(0.1)

    def processes(self) -> dict[int, str]:
        """Returns its processes: command lines by process id."""
        return marked_processes(_MARK, self._mark)

    def kill(self) -> None:
        """Kills all of its processes, as when its machine loses power."""
        while left := self.processes():
            kill(left)
        self._process.wait()


class RayCluster:
    """A head without CPUs, and nodes of one CPU each.

    Args:
        num_nodes: At first, beside the head.
    """

    def __init__(self, num_nodes: int) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="dim-", dir="/tmp"))  # short: the names of sockets are limited
        self._num_started = 0
        self.nodes: list[Node] = []
        port = _free_port()
        self.address = f"{_own_address()}:{port}"
        self.dashboard_port = _free_port()
        try:
            self.head = self._start(
                "--head", f"--node-ip-address={_own_address()}", f"--port={port}", "--num-cpus=0",
                f"--temp-dir={self._folder / 'ray'}", f"--ray-client-server-port={_free_port()}",
                "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard_port}",
            )  # fmt: skip
            for _ in range(num_nodes):
                self.add()
        except BaseException:
            self.end()
            raise

    def __enter__(self) -> Self:
        """Needs nothing."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def add(self) -> Node:
        """Starts one more node."""
        self.nodes.append(self._start(f"--address={self.address}", "--num-cpus=1"))
        return self.nodes[-1]

    def lose(self, node: Node) -> None:
        """Kills a node."""
        node.kill()
        self.nodes.remove(node)

    def preempt(self, node: Node, notice_seconds: float) -> None:
        """Announces the loss of a node as a cloud does, and kills it after that time."""
        [raylet] = [command for command in node.processes().values() if "/raylet/raylet " in command]
        node_id = raylet.partition("--node_id=")[2].split()[0]
        arguments = ["--address", self.address, "--node-id", node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
        arguments += ["--reason-message", "taken back", "--deadline-remaining-seconds", str(round(notice_seconds))]
        ray = str(Path(sys.executable).with_name("ray"))
        subprocess.run([ray, "drain-node", *arguments], check=True, env={**os.environ, **NO_TOKEN}, capture_output=True)
        time.sleep(notice_seconds)
        self.lose(node)

    def find(self, name: str) -> list[tuple[Node, int]]:
        """Returns nodes and process ids of the workers that do something, such as "ray::_run"."""
        return [(node, pid) for node in self.nodes for pid, command in node.processes().items() if name in command]

    def lose_head(self) -> None:
        """Kills the head."""
        self.head.kill()

    def end(self) -> None:
        """Kills what is left, and deletes Ray's files."""
        for node in [*self.nodes, *([self.head] if hasattr(self, "head") else [])]:
            node.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, *arguments: str) -> Node:
        self._num_started += 1
        return Node(arguments, self._folder / f"node-{self._num_started}.log")


def kill(pids: Iterable[int]) -> None:
    """Kills processes without a word."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as any_socket:
        any_socket.bind(("", 0))
        return int(any_socket.getsockname()[1])


def _own_address() -> str:
    """Returns the address under which this machine's nodes find each other: the one that Ray would choose."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            any_socket.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:  # no network
            return "127.0.0.1"
        return str(any_socket.getsockname()[0])
