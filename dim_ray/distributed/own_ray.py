"""A Ray that one command has for itself: on the loopback interface, with a token that others can't read.

    with own_ray(with_dashboard=False) as options:
        ray.init(**options)

By itself Ray listens on the machine's address in the network, and writes its token so that every user of the machine
can read it. It disturbs no other Ray: ports and folders are free ones, and the one that runs isn't joined.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["own_ray"]

_LOOPBACK = "127.0.0.1"
_TOKEN_BYTES = 32
_GIVE_UP_SECONDS = 5  # of processes that outlive the driver, when they tell Ray's store, which has died with it


@contextmanager
def own_ray(*, with_dashboard: bool) -> Iterator[dict[str, Any]]:
    """Yields the options of `ray.init` that start it, which has to be called in the body.

    Args:
        with_dashboard: Its processes cost memory and seconds; they are needed where trials make placement groups, which
            leak without them.
    """
    _hide_token()
    # Ray's switches, which its processes inherit. Processes that built the networks stay while the trials have theirs,
    # and evaluate afterwards: a new one spends ten seconds on importing. The default is one process a core.
    os.environ.setdefault("RAY_num_workers_soft_limit", str(2 * (os.cpu_count() or 1)))
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", str(_GIVE_UP_SECONDS))
    with _on_loopback():
        yield {
            "address": "local",  # never that of somebody else who happens to run one here
            "include_dashboard": with_dashboard,
            "dashboard_host": _LOOPBACK,
            "_node_ip_address": _LOOPBACK,
        }


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Lets Ray take the loopback address, which it replaces by one that other machines reach.

    On macOS and Windows it takes it by itself, and this is the switch.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _hide_token() -> None:
    """Makes the token, where there is none, before Ray makes one that everybody can read; closes one that is open."""
    path = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):  # then Ray says what is wrong with the folder
        path.parent.mkdir(exist_ok=True)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            path.chmod(0o600)
            return
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(_TOKEN_BYTES))
