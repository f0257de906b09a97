"""A Ray that one command has for itself: on the loopback interface, with a token that others can't read.

    with own_ray(with_dashboard=False) as options:
        ray.init(**options)
    with agents_end_with_driver():
        ...

By itself Ray listens on the machine's address in the network, and writes its token so that every user of the machine
can read it. It disturbs no other Ray: ports and folders are free ones, and the one that runs isn't joined.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["agents_end_with_driver", "own_ray"]

_LOOPBACK = "127.0.0.1"
_TOKEN_BYTES = 32
_RAYLET = "raylet"
_WATCH = 'read -r _; kill -9 "$@" 2>/dev/null'  # reading ends with the driver, however that ends


@contextmanager
def own_ray(*, with_dashboard: bool) -> Iterator[dict[str, Any]]:
    """Yields the options of `ray.init` that start it, which has to be called in the body.

    Args:
        with_dashboard: Its processes cost memory and seconds; they are needed where trials make placement groups, which
            leak without them.
    """
    _hide_token()
    # Processes that built the networks stay while the trials have theirs, and evaluate afterwards: a new one spends ten
    # seconds on importing. The default is one process a core.
    os.environ.setdefault("RAY_num_workers_soft_limit", str(2 * (os.cpu_count() or 1)))
    with _on_loopback():
        yield {
            "address": "local",  # never that of somebody else who happens to run one here
            "include_dashboard": with_dashboard,
            "dashboard_host": _LOOPBACK,
            "_node_ip_address": _LOOPBACK,
        }


@contextmanager
def agents_end_with_driver() -> Iterator[None]:
    """Ends Ray's agents at once where this process is killed while the body runs.

    On Linux everything else of Ray's goes with it or within seconds; two agents of the node first try for a minute to
    tell Ray's store, which is gone.
    """
    agents = _find_agents() if sys.platform == "linux" else []
    if not agents:
        yield
        return
    # It isn't in this process's group, which Ctrl-C or a batch system may kill as a whole.
    watch = subprocess.Popen(
        ["sh", "-c", _WATCH, "sh", *map(str, agents)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        watch.kill()
        watch.communicate()


def _find_agents() -> list[int]:
    """Returns the process ids of the agents that belong to this process's Ray."""
    import ray  # noqa: F401  # brings psutil
    import psutil  # isort: skip

    raylets = [child for child in psutil.Process().children() if child.name() == _RAYLET]
    children = [child for raylet in raylets for child in raylet.children()]
    return [child.pid for child in children if any("agent" in word.lower() for word in child.cmdline())]


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
