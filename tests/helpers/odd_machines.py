"""Processes on machines and as users that aren't as usual: no name, no home, no loopback, no shared memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
NAMELESS = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]
"""Starts a process of a user without an entry in /etc/passwd."""
# Python may lie in root's home, so this user may read everything, but write only what others may write.
NAMELESS += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
NO_LOOPBACK = ["unshare", "--net"]
ONLY_IPV6 = [*NO_LOOPBACK, "sh", "-c", 'ip link set lo up && ip addr del 127.0.0.1/8 dev lo && exec "$@"', "sh"]
READ_ONLY_SHARED_MEMORY = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o ro tmpfs /dev/shm && exec "$@"', "sh"]


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Has a short path, unlike pytest's own, and every user may write to it."""
    folder = Path(tempfile.mkdtemp(prefix="dt-", dir="/tmp"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def run_python(
    *arguments: str, under: Sequence[str], folder: Path, environment: Mapping[str, str | None]
) -> subprocess.CompletedProcess[str]:
    """Run Python under another command, or skip the test where that is forbidden; unset variables that are None."""
    if under and (
        os.geteuid() or not shutil.which(under[0]) or subprocess.run([*under, "true"], check=False).returncode
    ):
        pytest.skip(f"this process may not run {' '.join(under[:2])}")
    given = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(_ROOT), **environment}
    return subprocess.run(
        [*under, sys.executable, *arguments],
        cwd=folder,
        env={name: value for name, value in given.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
