"""Keep OpenMP's threads from slowing each other down while other processes use the machine's cores.

    share_cores()                       # before PyTorch is imported
    os.environ | wait_policy()          # for processes that don't inherit it

By default they wait for each other in a loop, and keep the one that they wait for from its core.
"""

from __future__ import annotations

import os

__all__ = ["share_cores", "wait_policy"]

_CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def share_cores() -> None:
    """Let threads that wait sleep, unless the user has chosen how they wait."""
    if not wait_policy():
        os.environ["OMP_WAIT_POLICY"] = "passive"


def wait_policy() -> dict[str, str]:
    """Return the environment variables that say how threads wait."""
    return {name: os.environ[name] for name in _CHOICES if name in os.environ}
