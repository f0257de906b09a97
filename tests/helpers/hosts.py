"""Hosts on this machine: network namespaces with own mounts, processes and sshd, on a network of their own.

    with Network(shared=[storage]) as network:
        laptop, head = network.add("laptop"), network.add("head")
        laptop.run("ssh", head.address, "hostname")
        network.cut_off(head)

A host has its own /root, /tmp, /run and /dev/shm, sees no process of another, and has the root user and the rest of the
files of this machine. Nothing of it can be reached from outside, and it reaches nothing outside. Ends with the body, or
with this process. Needs root, and Debian's packages openssh-server, rsync and iproute2.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["Host", "Network", "missing"]

_PROGRAMS = ("sshd", "rsync", "ip", "unshare", "nsenter", "setpriv", "ssh-keygen")
_PREFIX = "198.18.0"  # of addresses that are meant for tests of networks, RFC 2544
_MARK = "dim"  # begins the names of namespaces, before this process's id
_START_SECONDS = 30.0
_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
# The mounts of a host; {shared} are folders below those that it gets for itself.
_BOOT = """
set -e
mount -t tmpfs keep /mnt
number=0
for folder in {shared}; do
  number=$((number + 1)); mkdir /mnt/$number; mount --bind "$folder" /mnt/$number
done
mkdir /mnt/key && cp {key} {key}.pub /mnt/key
for own in /tmp /root /dev/shm; do mount -t tmpfs -o mode=1777 own "$own"; done
chmod 700 /root
number=0
for folder in {shared}; do
  number=$((number + 1)); mkdir -p "$folder"; mount --bind /mnt/$number "$folder"
done
mkdir -m 700 /root/.ssh
cp /mnt/key/{key_name}.pub /root/.ssh/authorized_keys
if [ {has_key} = 1 ]; then cp /mnt/key/{key_name} /root/.ssh/id_ed25519; fi
mount -t tmpfs own /run
mkdir -m 755 /run/sshd
ssh-keygen -q -t ed25519 -N '' -f /run/host_key
hostname {name}
printf '127.0.0.1 localhost {name}\\n' > /run/hosts && mount --bind /run/hosts /etc/hosts
printf 'nameserver 127.0.0.1\\n' > /run/resolv.conf && mount --bind /run/resolv.conf /etc/resolv.conf
cd /root
exec /usr/sbin/sshd -D -e -f /dev/null -o HostKey=/run/host_key -o PidFile=none -o UsePAM=no -o StrictModes=no \
  -o PasswordAuthentication=no -o PermitRootLogin=prohibit-password -o UseDNS=no -o MaxStartups=50
"""


def missing() -> str:
    """Returns why there can be no hosts here, or nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs Linux and root"
    absent = [program for program in _PROGRAMS if not shutil.which(program, path=_PATH)]
    if absent:
        return f"needs {', '.join(absent)} (Debian: openssh-server rsync iproute2)"
    probe = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], capture_output=True, check=False)
    return "" if probe.returncode == 0 else f"no namespaces: {probe.stderr.decode().strip()}"


class Host:
    """One host; made by `Network.add`.

    Attributes:
        name: Of the host.
        address: Of the host, IPv4.
    """

    def __init__(self, name: str, address: str, namespace: str, link: str, boot: str, log: Path) -> None:
        self.name, self.address, self.namespace, self.link = name, address, namespace, link
        self._log = log
        # unshare ends with this process, and the host with unshare.
        unshared = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "unshare",
            "--mount",
            "--pid",
            "--uts",
            "--ipc",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ]
        with log.open("w") as output:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", namespace, *unshared, "sh", "-c", boot],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={"PATH": _PATH},
                start_new_session=True,
            )
        until = time.monotonic() + _START_SECONDS
        while "Server listening on 0.0.0.0" not in log.read_text():
            if self._process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"host {name} didn't start:\n{log.read_text()}")
            time.sleep(0.05)
        self._init = self._find_init()

    def command(self, *words: str, cwd: str = "/root", environment: Sequence[str] = ()) -> list[str]:
        """Returns what runs a command on this host, as root, with nothing of this process's environment."""
        inside = ["nsenter", f"--target={self._init}", "--mount", "--net", "--pid", "--uts", "--ipc", f"--wdns={cwd}"]
        cleared = ["env", "-i", "HOME=/root", f"PATH={Path(sys.prefix) / 'bin'}:{_PATH}", "LANG=C.UTF-8", *environment]
        return [*inside, *cleared, *words]

    def run(
        self, *words: str, cwd: str = "/root", environment: Sequence[str] = (), seconds: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command on this host to its end."""
        return subprocess.run(
            self.command(*words, cwd=cwd, environment=environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def processes(self, containing: str = "") -> dict[int, str]:
        """Returns its processes but sshd and what it runs on behalf of others: command lines by this machine's ids."""
        found = {}
        own = os.readlink(f"/proc/{self._init}/ns/pid")
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if os.readlink(folder / "ns/pid") != own:
                    continue
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                if command and containing in command and "sshd" not in command:
                    found[int(folder.name)] = command
        return found

    def end(self) -> None:
        """Ends it with all of its processes: the first one of a PID namespace takes the others with it."""
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _find_init(self) -> int:
        """Returns the id of the host's first process: the only child of unshare."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        assert len(children) == 1, (self.name, children)
        return int(children[0])


class Network:
    """A network on which there is nothing but the hosts that are added.

    Args:
        shared: Folders that every host has at the same path, as if they mounted it. This Python is always there.
    """

    def __init__(self, shared: Sequence[Path] = ()) -> None:
        self._shared = [Path(sys.prefix), Path(sys.base_prefix), *shared]
        self._id = f"{_MARK}{os.getpid()}"
        self._folder = Path(tempfile.mkdtemp(prefix=f"{self._id}-"))
        self._key = self._folder / "key"
        self._namespaces: list[str] = []
        self.hosts: list[Host] = []

    def __enter__(self) -> Self:
        try:
            _delete_leftovers()
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self._key)
            self._switch = self._add_namespace("switch")
            self._inside(self._switch, "ip link add bridge type bridge")
            self._inside(self._switch, "ip link set bridge up")
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def add(self, name: str, *, has_key: bool = False) -> Host:
        """Starts a host.

        Args:
            name: Its name.
            has_key: Whether root has the key that opens all hosts.
        """
        namespace, number = self._add_namespace(name), len(self.hosts) + 1
        address, link = f"{_PREFIX}.{number}", f"to{number}"
        _run(
            "ip", "link", "add", link, "netns", self._switch, "type", "veth", "peer", "name", "eth0", "netns", namespace
        )
        self._inside(self._switch, f"ip link set {link} master bridge up")
        self._inside(namespace, "ip link set lo up")
        self._inside(namespace, f"ip address add {address}/24 dev eth0")
        self._inside(namespace, "ip link set eth0 up")
        # Leads nowhere; Ray takes its own address from the route to the world.
        self._inside(namespace, "ip route add default dev eth0")
        boot = _BOOT.format(
            shared=" ".join(shlex.quote(str(folder)) for folder in self._shared),
            key=self._key,
            key_name=self._key.name,
            has_key=int(has_key),
            name=name,
        )
        host = Host(name, address, namespace, link, boot, self._folder / f"{name}.log")
        self.hosts.append(host)
        return host

    def cut_off(self, host: Host) -> None:
        """Pulls its cable: it goes on, and nobody hears of it."""
        self._inside(self._switch, f"ip link set {host.link} down")

    def reconnect(self, host: Host) -> None:
        """Plugs its cable in again."""
        self._inside(self._switch, f"ip link set {host.link} up")

    def power_off(self, host: Host) -> None:
        """Ends a host at once; nobody hears of it."""
        self.cut_off(host)
        host.end()
        self.hosts.remove(host)

    def end(self) -> None:
        """Ends all hosts, and takes everything away."""
        for host in self.hosts:
            host.end()
        for namespace in self._namespaces:
            subprocess.run(["ip", "netns", "delete", namespace], check=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _add_namespace(self, name: str) -> str:
        namespace = f"{self._id}-{name}"
        _run("ip", "netns", "add", namespace)
        self._namespaces.append(namespace)
        return namespace

    def _inside(self, namespace: str, command: str) -> None:
        _run("ip", "netns", "exec", namespace, *command.split())


def _delete_leftovers() -> None:
    """Deletes what is left of those that were killed; their hosts ended with them."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    for name, process in re.findall(rf"^({_MARK}(\d+)-\S+)", listed, re.MULTILINE):
        if not Path(f"/proc/{process}").exists():
            subprocess.run(["ip", "netns", "delete", name], check=False)
            for folder in Path(tempfile.gettempdir()).glob(f"{_MARK}{process}-*"):
                shutil.rmtree(folder, ignore_errors=True)


def _run(*words: Any) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(map(str, words))}: {done.stderr}"
