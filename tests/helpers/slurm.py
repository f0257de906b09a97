"""A Slurm of three nodes on hosts of this machine: Debian's own slurmctld, slurmd and munge.

    with Slurm(folder) as slurm:
        job = slurm.submit("ada", "--nodes=2", "python", "-m", "dim_ray.tune")
        slurm.wait_for("COMPLETED", job)

A checkout, the homes of two users and the storage are shared by all hosts. Needs root, and Debian's packages slurmctld,
slurmd, slurm-client and munge besides those of tests.helpers.hosts.
"""

from __future__ import annotations

import compileall
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.helpers.cluster_files import ROOT
from tests.helpers.hosts import Host, Network, missing

__all__ = ["USERS", "Slurm", "missing_slurm"]

USERS = {"ada": 2001, "ben": 2002}
"""Users of the cluster, with their ids."""
_PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
_NUM_NODES = 3
_NUM_CPUS = 2
_START_SECONDS = 60.0
_UNFINISHED = ("PENDING", "RUNNING", "COMPLETING", "REQUEUED")
_PATH = "/usr/local/bin:/usr/bin:/bin"
_CONFIGURATION = """
ClusterName=tests
SlurmctldHost={login.name}({login.address})
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=/run/munge/socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
StateSaveLocation=/run/slurmctld
SlurmdSpoolDir=/run/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/run/slurmctld.log
SlurmdLogFile=/run/slurmd.log
SlurmdParameters=config_overrides
SlurmdTimeout=20
ReturnToService=2
GresTypes=gpu
{nodes}
PartitionName=all Nodes=ALL Default=YES State=UP OverSubscribe=YES
"""
# Its processes end with the host.
_START = """
set -e
chmod 711 /root
{{ cat /etc/passwd; {users}; }} >/run/passwd
mount --bind /run/passwd /etc/passwd
printf '{names}' >/run/hosts
mkdir -m 755 /run/munge
install -m 400 {folder}/munge.key /run/munge.key
munged --force --key-file=/run/munge.key --socket=/run/munge/socket --pid-file=/run/munge/pid \
  --log-file=/run/munge/log --seed-file=/run/munge/seed
export SLURM_CONF={folder}/slurm/slurm.conf
{daemon}
"""


def missing_slurm() -> str:
    """Returns why there can be no Slurm here, or nothing."""
    absent = [program for program in _PROGRAMS if not shutil.which(program)]
    return missing() or (f"needs {', '.join(absent)} (Debian: slurmctld slurmd slurm-client munge)" if absent else "")


class Slurm:
    """A Slurm whose nodes are idle; ends with the body.

    Args:
        folder: Is there on every host.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkout = folder / "checkout"
        self.network = Network(shared=[folder])
        self.nodes: list[Host] = []

    def __enter__(self) -> Self:
        self._make_folders()
        self.network.__enter__()
        try:
            self.login = self.network.add("login")
            self.nodes = [self.network.add(f"node{number}") for number in range(1, _NUM_NODES + 1)]
            self._configure()
            self._start(self.login, "slurmctld")
            for node in self.nodes:
                self._start(node, f"slurmd -N {node.name}")
            self.wait(self.is_idle)
        except BaseException:
            self.network.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.network.end()

    def run(self, *words: str, user: str = "root") -> subprocess.CompletedProcess[str]:
        """Runs a command on the login host in the checkout, with nothing of this process's environment."""
        home = Path("/root") if user == "root" else self.home(user)
        number = str(USERS.get(user, 0))
        identity = ("setpriv", f"--reuid={number}", f"--regid={number}", "--clear-groups")
        environment = (
            f"HOME={home}",
            f"USER={user}",
            f"PATH={_PATH}",
            f"SLURM_CONF={self.folder}/slurm/slurm.conf",
            f"PYTHONPATH={self.checkout}",
            "RAY_USAGE_STATS_ENABLED=0",
            "OMP_NUM_THREADS=1",
        )
        return self.login.run("env", "-i", *environment, *identity, *words, cwd=str(self.checkout))

    def home(self, user: str) -> Path:
        """Returns the home of a user, the same on all hosts."""
        return self.folder / "home" / user

    def submit(self, *arguments: str, user: str = "ada") -> int:
        """Submits cluster/slurm.sh; returns the job's number."""
        done = self.run("sbatch", "--parsable", f"--output={self.folder}/%j.out", *arguments, user=user)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    def output(self, job: int) -> str:
        """Returns what a job has printed."""
        path = self.folder / f"{job}.out"
        return path.read_text() if path.exists() else ""

    def fields(self, job: int) -> dict[str, str]:
        """Returns what Slurm knows of a job."""
        told = self.run("scontrol", "--oneliner", "show", "job", str(job)).stdout
        return dict(word.split("=", 1) for word in told.split() if "=" in word)

    def end(self, job: int, seconds: float) -> str:
        """Waits for a job's end; returns its state and exit code, such as COMPLETED 0:0."""
        self.wait(lambda: self.has_ended(job), seconds, job)
        fields = self.fields(job)
        return f"{fields['JobState']} {fields['ExitCode']}"

    def has_ended(self, job: int) -> bool:
        """Returns whether a job is over."""
        return self.fields(job).get("JobState") not in _UNFINISHED

    def is_idle(self) -> bool:
        """Returns whether all nodes are there and have nothing to do."""
        return self.run("sinfo", "--noheader", "--format=%D %t").stdout.split() == [str(len(self.nodes)), "idle"]

    def wait(self, condition: Callable[[], object], seconds: float = _START_SECONDS, job: int = 0) -> None:
        """Waits until a condition is true; says otherwise what a job has printed."""
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, "\n".join([*self._logs(), self.output(job)])
            time.sleep(0.5)

    def left(self) -> dict[str, list[str]]:
        """Returns the processes of users, and their files in folders that aren't shared, by host."""
        found = {}
        places = ("/tmp", "/dev/shm", "/var/tmp", "-path", str(self.folder), "-prune", "-o", "-uid", "+2000", "-print")
        for host in self.network.hosts:
            listed = host.run("find", *places).stdout.splitlines()
            found[host.name] = listed + host.run("ps", "-o", "args=", "-u", ",".join(USERS)).stdout.splitlines()
        return {name: left for name, left in found.items() if left}

    def in_homes(self) -> list[Path]:
        """Returns all files in homes."""
        return list((self.folder / "home").glob("*/**/*"))

    def _make_folders(self) -> None:
        self.folder.chmod(0o777)
        (self.folder / "slurm").mkdir(mode=0o755)
        (self.folder / "munge.key").write_bytes(os.urandom(128))
        (self.folder / "munge.key").chmod(0o400)
        for name in ("dim_ray", "tuning", "cluster"):
            shutil.copytree(ROOT / name, self.checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
        compileall.compile_dir(self.checkout, quiet=1)  # its users can't write there
        (self.checkout / ".venv").symlink_to(sys.prefix)
        for user, number in USERS.items():
            self.home(user).mkdir(parents=True)
            os.chown(self.home(user), number, number)

    def _configure(self) -> None:
        nodes = "\n".join(
            f"NodeName={node.name} NodeAddr={node.address} CPUs={_NUM_CPUS} RealMemory=8000 Gres=gpu:2"
            for node in self.nodes
        )
        files = {
            "slurm.conf": _CONFIGURATION.format(login=self.login, nodes=nodes),
            "gres.conf": f"Name=gpu File={self.folder}/slurm/gpu[0-1]\n",
            "cgroup.conf": "CgroupPlugin=cgroup/v1\n",  # otherwise slurmd ends without a word
            "gpu0": "",
            "gpu1": "",
        }
        for name, text in files.items():
            (self.folder / "slurm" / name).write_text(text)

    def _start(self, host: Host, daemon: str) -> None:
        users = "; ".join(
            f"echo {user}:x:{number}:{number}::{self.home(user)}:/bin/bash" for user, number in USERS.items()
        )
        names = "127.0.0.1 localhost\\n" + "".join(f"{other.address} {other.name}\\n" for other in self.network.hosts)
        script = _START.format(folder=self.folder, users=users, names=names, daemon=daemon)
        done = host.run("sh", "-c", script)
        assert done.returncode == 0, f"{host.name}: {done.stdout}{done.stderr}"

    def _logs(self) -> list[str]:
        return [host.run("sh", "-c", "tail -n 5 /run/slurm*.log").stdout for host in self.network.hosts]
