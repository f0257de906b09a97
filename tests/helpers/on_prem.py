"""cluster/on_prem.yaml on three hosts of this machine, and the laptop that it is run from."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.helpers.cluster_files import ROOT, load
from tests.helpers.harmed_study import HarmedStudy
from tests.helpers.hosts import Host, Network
from tests.helpers.runs import FLAGS, Run

__all__ = ["LaptopRun", "LaptopStudy", "OnPrem"]

_UP_SECONDS = 300.0
_ENVIRONMENT = ("RAY_USAGE_STATS_ENABLED=0", "PYTHONUNBUFFERED=1")  # of the laptop
_NODES = "import ray; ray.init(log_to_driver=False); print('nodes', sum(node['Alive'] for node in ray.nodes()))"


class OnPrem:
    """A cluster that was brought up by `ray up`; ends with the body, whatever state it is in.

    Args:
        folder: Is there on every host, and holds the configuration and the storage.
    """

    def __init__(self, folder: Path) -> None:
        self.storage = folder / "storage"
        self.storage.mkdir(parents=True)
        self.configuration = folder / "on_prem.yaml"
        self.network = Network(shared=[ROOT, folder])
        self.up_seconds = self.ready_seconds = 0.0

    def __enter__(self) -> Self:
        self.network.__enter__()
        try:
            self.laptop = self.network.add("laptop", has_key=True)
            self.head = self.network.add("head")
            self.workers = [self.network.add(f"worker{number}") for number in (1, 2)]
            self.configuration.write_text(yaml.safe_dump(self._filled_in()))
            token = self.laptop.run("ray", "get-auth-token", "--generate")
            assert token.returncode == 0, token.stderr
            self._up()
        except BaseException:
            self.network.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.network.end()

    @property
    def hosts(self) -> list[Host]:
        """Of the cluster: the head, and the others."""
        return [self.head, *self.workers]

    def ray(self, command: str, *arguments: str, seconds: float = 120.0) -> tuple[int, str]:
        """Gives a command of Ray's on the laptop, such as `ray exec`; returns its exit code and what it printed."""
        done = self.laptop.run("ray", command, *arguments, cwd=str(ROOT), environment=_ENVIRONMENT, seconds=seconds)
        return done.returncode, done.stdout + done.stderr

    def on_head(self, command: str, seconds: float = 120.0) -> str:
        """Runs a command on the head in a shell like Ray's, and returns what it printed."""
        done = self.head.run("bash", "--login", "-c", "-i", f"source ~/.bashrc; {command}", seconds=seconds)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ray_processes(self) -> dict[str, dict[int, str]]:
        """Returns what is left of Ray on each host of the cluster."""
        found = {host.name: host.processes() for host in self.hosts}
        return {name: processes for name, processes in found.items() if processes}

    def _up(self) -> None:
        started_at = time.monotonic()
        status, output = self.ray("up", "--yes", str(self.configuration), seconds=_UP_SECONDS)
        self.up_seconds = time.monotonic() - started_at
        assert status == 0, output
        while (count := self.count_nodes()) < len(self.hosts):
            assert time.monotonic() - started_at < _UP_SECONDS, (count, output, self.monitor_log())
            time.sleep(0.5)
        self.ready_seconds = time.monotonic() - started_at

    def count_nodes(self) -> int:
        """Returns how many nodes the head sees."""
        found = re.search(r"nodes (\d+)", self.on_head(f"python -c {shlex.quote(_NODES)}"))
        assert found is not None
        return int(found[1])

    def monitor_log(self) -> str:
        """Returns what Ray's autoscaler says."""
        return self.head.run("sh", "-c", "tail -n 60 /tmp/ray/session_latest/logs/monitor*").stdout

    def _filled_in(self) -> dict[str, Any]:
        """Returns the configuration of the checkout with what a user fills in, and one core a host."""
        config = load("on_prem.yaml")
        config["provider"] |= {"head_ip": self.head.address, "worker_ips": [host.address for host in self.workers]}
        config["auth"] = {"ssh_user": "root", "ssh_private_key": "~/.ssh/id_ed25519"}
        (command,) = config["setup_commands"]
        config["setup_commands"] = [command.replace("~/dim-ray-environment", sys.prefix)]
        (head,), (worker,) = config["head_start_ray_commands"], config["worker_start_ray_commands"]
        assert "--num-cpus=0" in head
        config["head_start_ray_commands"] = [head.replace("--num-cpus=0", "--num-cpus=1")]
        config["worker_start_ray_commands"] = [f"{worker} --num-cpus=1"]
        return config


class LaptopRun(Run):
    """A study that is begun on the laptop, and runs on the cluster.

    Args:
        cluster: Where it runs.
        changes: Flags beside or instead of `tests.helpers.runs.FLAGS`.
    """

    def __init__(self, cluster: OnPrem, changes: Mapping[str, str]) -> None:
        self.storage = cluster.storage
        flags = {**FLAGS, "--storage": str(cluster.storage), **changes}
        self._mark = uuid.uuid4().hex  # of no process here: those on the hosts end with them
        self._started_at = time.monotonic()
        self.returncode = None
        self.stdout = self.stderr = ""
        self._process = subprocess.Popen(
            cluster.laptop.command(
                *_study_command(cluster, [word for flag, value in flags.items() for word in (flag, *value.split())]),
                cwd=str(ROOT),
                environment=_ENVIRONMENT,
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


class LaptopStudy(HarmedStudy):
    """A study that is harmed while it runs on the hosts."""

    def start(self, cluster: OnPrem) -> None:  # type: ignore[override]
        """Gives the command on the laptop."""
        self._commanded_at = time.time()
        self.run = LaptopRun(cluster, self._flags)


def _study_command(cluster: OnPrem, arguments: Sequence[str]) -> list[str]:
    """Returns what a user types on the laptop to run a study on the cluster."""
    return ["python", "-m", "dim_ray.tune", "--cluster", str(cluster.configuration), *arguments]
