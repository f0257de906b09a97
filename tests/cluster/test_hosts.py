from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.cluster_files import ROOT
from tests.helpers.hosts import Network, missing

pytestmark = [pytest.mark.multihost, pytest.mark.skipif(bool(missing()), reason=missing())]

SSH = ("ssh", "-o", "StrictHostKeyChecking=no", "-o", "ConnectTimeout=3")


def test_hosts_share_what_they_are_told_to_and_see_nothing_else_of_each_other(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    with Network(shared=[tmp_path / "shared"]) as network:
        one, other = network.add("one", has_key=True), network.add("other")
        (tmp_path / "shared" / "file").write_text("shared\n")
        for folder in ("/tmp", "/root", "/run", "/dev/shm"):
            assert one.run("sh", "-c", f"echo own >{folder}/file").returncode == 0
            assert other.run("cat", f"{folder}/file").returncode == 1
            assert not Path(folder, "file").exists()
        told = one.run(*SSH, other.address, f"hostname; cat {tmp_path}/shared/file; ps -e -o comm=")
        assert told.stdout.split()[:2] == ["other", "shared"], told.stderr
        assert set(told.stdout.split()[2:]) <= {"sshd", "sh", "ps"}
        assert other.run(*SSH, one.address, "true").returncode == 255  # it has no key


def test_host_that_is_cut_off_is_there_and_not_reached() -> None:
    with Network() as network:
        one, other = network.add("one", has_key=True), network.add("other")
        assert one.run(*SSH, other.address, "true").returncode == 0
        network.cut_off(other)
        assert one.run(*SSH, other.address, "true").returncode == 255
        assert other.run("true").returncode == 0


def test_hosts_and_their_processes_end_with_the_process_that_made_them() -> None:
    code = (
        "import time\n"
        "from tests.helpers.hosts import Network\n"
        "with Network() as network:\n"
        "    host = network.add('one')\n"
        "    host.run('sh', '-c', 'sleep 1000 >/dev/null 2>&1 &')\n"
        "    print(*host.processes('sleep'), flush=True)\n"
        "    time.sleep(1000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        started = int(process.stdout.readline())
        assert Path(f"/proc/{started}").exists()
        process.kill()
    until = time.monotonic() + 10
    while Path(f"/proc/{started}").exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert not Path(f"/proc/{started}").exists()
    with Network():  # takes what is left of the names away
        left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
        assert f"dim{process.pid}-" not in left
        assert f"dim{os.getpid()}-" in left
