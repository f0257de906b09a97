"""Ray clusters of several nodes on this machine, each node with an environment of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.helpers.runs import NO_TOKEN

SECONDS = 300.0
"""Time limit of a command; the machine may be busy."""
_NODES = """
import json, sys
from ray.cluster_utils import Cluster

cluster = Cluster()
for environment in json.loads(sys.argv[1]):
    cluster.add_node(num_cpus=int(sys.argv[2]), include_dashboard=False, env_vars=environment)
print("at", cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@contextmanager
def nodes(*environments: Mapping[str, str], num_cpus: int = 1) -> Iterator[str]:
    """Run one node for each environment, the head first, and yield the cluster's address."""
    with ray_process(_NODES, json.dumps(environments), str(num_cpus)) as address:
        yield address


@contextmanager
def ray_process(code: str, *arguments: str) -> Iterator[str]:
    """Run Python code that starts Ray, prints ``at ADDRESS`` and ends with its input; yield the address."""
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=_environment(),
    ) as process:
        assert process.stdout is not None
        address = None
        while address is None:
            assert process.poll() is None
            key, _, value = process.stdout.readline().strip().partition(" ")
            address = value if key == "at" else None
        try:
            yield address
        finally:
            process.communicate(timeout=60)  # the end of its input


@contextmanager
def node_without(folder: Path, address: str) -> Iterator[None]:
    """Run one more node, which sees this folder empty; needs root."""
    ray = Path(sys.executable).with_name("ray")
    start = f"exec {ray} start --address {address} --num-cpus 1 --block"
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs none {folder} && {start}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=_environment(),
        start_new_session=True,
    ) as process:
        try:
            yield
        finally:
            process.terminate()  # it ends what it started
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def run_command(
    address: str, code: Sequence[str], *, cwd: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments, joined to a cluster.

    Args:
        address: Address of the cluster.
        code: Arguments of Python.
        cwd: Working directory; Ray's workers import from it before their own code.
        environment: Further environment variables.
    """
    return subprocess.run(
        [sys.executable, *code],
        cwd=cwd,
        env={**command_environment(address), **(environment or {})},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def command_environment(address: str) -> dict[str, str]:
    """Return the environment of a process that joins a cluster."""
    return {**_environment(), "RAY_ADDRESS": address, "COLUMNS": "200"}


def wait_for_nodes(address: str, count: int) -> None:
    """Wait until the cluster has so many nodes."""
    code = "import ray; ray.init(log_to_driver=False); print(sum(node['Alive'] for node in ray.nodes()))"
    until = time.monotonic() + SECONDS
    while run_command(address, ["-c", code], cwd=Path.cwd()).stdout.split()[-1:] != [str(count)]:
        assert time.monotonic() < until
        time.sleep(0.5)


def _environment() -> dict[str, str]:
    root = str(Path(__file__).parents[2])  # the checkout, for processes that run elsewhere
    inherited = {name: value for name, value in os.environ.items() if not name.endswith("_SOCKET_IFNAME")}
    return {**inherited, **NO_TOKEN, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
