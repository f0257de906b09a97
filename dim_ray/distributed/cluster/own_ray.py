"""A Ray that one command has for itself, on the loopback interface and with a token that other users can't read.

    start_own_ray({}, make_folder(progress), with_dashboard=False)

By default Ray listens on the machine's address in the network, and lets every user of the machine read its token. This
one takes free ports and folders, so it disturbs no other Ray on the machine.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dim_ray.distributed.cluster.machine import LOOPBACK, object_store_bytes

__all__ = ["start_own_ray", "stored_token"]

_TOKEN = "RAY_AUTH_TOKEN"
_TOKEN_BYTES = 32

log = logging.getLogger(__name__)


def start_own_ray(options: Mapping[str, Any], folder: Path, *, with_dashboard: bool) -> None:
    """Start Ray and connect to it.

    Args:
        options: Further options of `ray.init`.
        folder: A private one for Ray's files.
        with_dashboard: Whether to start the dashboard, which costs memory and seconds. Trials that make placement
            groups need it: without it these leak.
    """
    import ray
    from ray._private import ray_constants

    _provide_token()
    os.environ.pop("RAY_REDIS_ADDRESS", None)  # a cluster's
    # Keep the processes that built the networks while the trials have theirs: they evaluate afterwards, and a new one
    # spends ten seconds on imports. Ray's default is one process per core.
    os.environ.setdefault("RAY_num_workers_soft_limit", str(2 * (os.cpu_count() or 1)))
    # Otherwise `ray.init` replaces the loopback address by a public one on Linux.
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        ray.init(
            address="local",  # never join another user's Ray on this machine
            include_dashboard=with_dashboard,
            dashboard_host=LOOPBACK,
            object_store_memory=object_store_bytes(),
            _node_ip_address=LOOPBACK,  # these two have public names only in `ray start`
            _temp_dir=str(folder),
            **options,
        )
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _provide_token() -> None:
    """Make a token that only its owner can read, before Ray makes an open one; close one that is open.

    Without a file for it, such as in a home that can't be written to, it is in the environment of Ray's processes.
    """
    try:
        token = os.environ.get(_TOKEN) or stored_token()
    except (OSError, RuntimeError, UnicodeDecodeError):
        log.info("The token has no file.", exc_info=True)
        token = ""
    if not re.fullmatch(r"[!-~]+", token):  # gRPC ends the process for other characters
        os.environ[_TOKEN] = secrets.token_hex(_TOKEN_BYTES)


def stored_token() -> str:
    """Return the token of its file, which is made where there is none, and which only its owner can read then."""
    if chosen := os.environ.get(f"{_TOKEN}_PATH"):
        return Path(chosen).read_text().strip()
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        path.chmod(0o600)
    else:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(_TOKEN_BYTES))
    return path.read_text().strip()
