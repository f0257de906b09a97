"""Keep OpenMP's threads from slowing each other down while other processes use the machine's cores.

    share_cores()                       # before PyTorch is imported
    os.environ | wait_policy()          # for processes that don't inherit it
    torch.set_num_threads(idle_cores())

By default they wait for each other in a loop, and keep the one that they wait for from its core. Asleep, they still
wait for the slowest, so a thread on a busy core slows all.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

__all__ = ["idle_cores", "share_cores", "wait_policy"]

_CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_TIMES = Path("/proc/stat")
_SAMPLE_SECONDS = 0.3


def share_cores() -> None:
    """Let threads that wait sleep, unless the user has chosen how they wait."""
    if not wait_policy():
        os.environ["OMP_WAIT_POLICY"] = "passive"


def wait_policy() -> dict[str, str]:
    """Return the environment variables that say how threads wait."""
    return {name: os.environ[name] for name in _CHOICES if name in os.environ}


def idle_cores() -> int:
    """Return how many of this process's cores nobody uses now, at least 1; all where the system doesn't say."""
    before = _times() if _TIMES.exists() else {}
    if not before:
        return os.cpu_count() or 1
    time.sleep(_SAMPLE_SECONDS)
    idle = 0.0
    for core, (total, idling) in _times().items():
        first_total, first_idling = before.get(core, (0, 0))
        idle += (idling - first_idling) / max(1, total - first_total)
    return max(1, round(idle))


def _times() -> dict[str, tuple[int, int]]:
    """Return the clock ticks of each of this process's cores since the start of the system: all, and idle ones."""
    cores = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    lines = [line.split() for line in _TIMES.read_text().splitlines()]
    times = {name: [int(number) for number in numbers] for name, *numbers in lines if name in cores}
    return {name: (sum(own[:8]), own[3] + own[4]) for name, own in times.items()}  # idle, and waiting for a disk
