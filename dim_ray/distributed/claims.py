"""Who builds what: one small actor of the cluster, so that studies that need the same network at once build it once.

    ask("claim", ["teachers/1f0e"], holder="a1", study="mnist-16")      # {}: it's ours for LEASE_SECONDS
    ask("claim", ["teachers/1f0e"], holder="b2", study="mnist-64")      # {"teachers/1f0e": "mnist-16"}

A claim is a lease: its holder renews it (`dim_ray.distributed.leases`), and it ends by itself when the holder dies.
It saves work and guards nothing: an artefact is named by what it's made of, and two that build it store the same.

As with the board, the actor's process imports this module alone. It outlives the driver that asked first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import ray

__all__ = ["LEASE_SECONDS", "ClaimTable", "ask"]

LEASE_SECONDS = 15.0
"""After its last renewal a claim is free again."""
_NAME, _NAMESPACE = "claims 1", "dim_ray"  # another number, where methods change: the actor stays with a cluster
_ON_THE_HEAD = {"node:__internal_head__": 0.001}  # it dies with the cluster alone
_ANSWER_SECONDS = 30.0  # the first time, its process starts


@dataclass(frozen=True)
class _Lease:
    holder: str
    study: str
    ends_at: float


class ClaimTable:
    """Leases by key.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._leases: dict[str, _Lease] = {}

    def claim(self, keys: Iterable[str], holder: str, study: str) -> dict[str, str]:
        """Gives the holder each key that nobody else holds, for `LEASE_SECONDS` from now; so it renews its own, too.

        Args:
            keys: What will be built, and where.
            holder: Who asks.
            study: Is told to others.

        Returns:
            The keys that somebody else holds, each with the study that does.
        """
        keys = list(keys)
        others = self.held(keys, holder)
        ends_at = self._clock() + LEASE_SECONDS
        self._leases |= {key: _Lease(holder, study, ends_at) for key in keys if key not in others}
        return others

    def held(self, keys: Iterable[str], holder: str) -> dict[str, str]:
        """Returns those of the keys that somebody other than `holder` holds, each with the study that does."""
        now = self._clock()
        self._leases = {key: lease for key, lease in self._leases.items() if lease.ends_at > now}
        leases = {key: self._leases[key] for key in keys if key in self._leases}
        return {key: lease.study for key, lease in leases.items() if lease.holder != holder}

    def release(self, keys: Iterable[str], holder: str) -> None:
        """Ends the holder's claims, and nobody else's."""
        for key in keys:
            if key in self._leases and self._leases[key].holder == holder:
                del self._leases[key]


def ask(method: str, *arguments: Any, **options: Any) -> Any:
    """Returns what a method of the cluster's table answers; starts the table where there is none.

    Args:
        method: Of `ClaimTable`.
        arguments: Its arguments.
        options: Its keyword arguments.

    Raises:
        ray.exceptions.RayError: It's being started again, or doesn't answer. Another call may succeed.
    """
    table = (
        ray.remote(num_cpus=0, resources=_ON_THE_HEAD, max_restarts=-1)(ClaimTable)
        .options(name=_NAME, namespace=_NAMESPACE, lifetime="detached", get_if_exists=True)
        .remote()
    )
    return ray.get(getattr(table, method).remote(*arguments, **options), timeout=_ANSWER_SECONDS)
