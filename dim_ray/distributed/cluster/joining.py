"""Join a Ray cluster, or start Ray on this machine, and say how many trials fit side by side.

    with cluster(config, progress) as placement:
        print(placement.max_concurrent)

RAY_ADDRESS, or --address, names a cluster to join. Without it, Ray is started on this machine and ends with the body.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
import signal
import socket
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from dim_ray.config import Config
from dim_ray.distributed.cluster.address import make_address_hook
from dim_ray.distributed.cluster.machine import check_machine, make_folder
from dim_ray.distributed.cluster.own_ray import start_own_ray
from dim_ray.distributed.cluster.placement import Placement, local_resources, plan_placement
from dim_ray.errors import DimError, ResourceError
from dim_ray.progress import Progress
from dim_ray.start.threads import wait_policy

__all__ = ["cluster", "joins_a_cluster"]

_STAGE = "Ray"
_NO_ADDRESSES = ("", "local")
_SECONDS_TO_ANSWER = 5.0
_MOST_CHARACTERS = 400

log = logging.getLogger(__name__)


def joins_a_cluster() -> bool:
    """Return whether RAY_ADDRESS names a cluster to join; otherwise Ray is started on this machine."""
    return _address() not in _NO_ADDRESSES


@contextmanager
def cluster(config: Config, progress: Progress) -> Iterator[Placement]:
    """Join the cluster that RAY_ADDRESS names, or start Ray on this machine; disconnect at the end.

    Args:
        config: Configuration, with what a trial needs.
        progress: Receives one stage, the start of Ray.

    Yields:
        What one trial holds, and how many run side by side.

    Raises:
        ResourceError: A trial can never be placed, the cluster at RAY_ADDRESS can't be joined, or Ray can't work on
            this machine.
        DimError: Ray didn't start.
    """
    joins, folder = joins_a_cluster(), None
    if joins:
        _check_address()
    else:  # refuse before Ray starts
        plan_placement(config.study, [local_resources()])
        check_machine()
        folder = make_folder(progress)
    progress.start(_STAGE, 1, "cluster")
    import ray

    _quiet_ray()
    from dim_ray.distributed.cluster.autoscaler import nodes_with_growth  # imports parts of Ray

    options: dict[str, Any] = {"configure_logging": False, "log_to_driver": False}
    environment: dict[str, Any] = {}
    if config.study.workers_per_trial > 1:
        environment["worker_process_setup_hook"] = make_address_hook()
    if joins and wait_policy():  # processes of a Ray of one's own inherit it
        environment["env_vars"] = wait_policy()
    if environment:
        options["runtime_env"] = environment
    on_terminate = signal.getsignal(signal.SIGTERM)
    # Ray prints what its nodes complain about, such as the death of a worker.
    with redirect_stdout(_LogFile()):
        try:
            try:
                if folder is None:
                    ray.init(**options)
                else:
                    start_own_ray(options, folder, with_dashboard=config.study.workers_per_trial > 1)
                if threading.current_thread() is threading.main_thread():  # Ray's own handler prints a stack
                    signal.signal(signal.SIGTERM, on_terminate)
                if joins:
                    nodes, growth = nodes_with_growth(config.study, progress)
                else:
                    nodes, growth = [ray.cluster_resources()], None
            except (Exception, SystemExit) as error:  # Ray's errors are of many kinds, a bare Exception among them
                if isinstance(error, SystemExit) and error.code == signal.SIGTERM and callable(on_terminate):
                    on_terminate(signal.SIGTERM, None)  # Ray's own handler ended its start
                failed, folder = folder, None  # it stays, because of Ray's log files
                raise _not_started(error, failed) from error
            placement = plan_placement(config.study, nodes, growth)
            log.info("Nodes: %s; growth: %s; placement: %s", nodes, growth, placement)
            yield placement
        finally:
            ray.shutdown()
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)


def _address() -> str:
    return os.environ.get("RAY_ADDRESS", "")


def _check_address() -> None:
    """Refuse HOST:PORT if nobody listens there: Ray would try for many minutes."""
    host, _, port = _address().rpartition(":")
    if not host or "/" in host or not port.isdecimal():  # "auto", or an address with a scheme
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(_brief(error)) from error


def _no_cluster(reason: str) -> ResourceError:
    return ResourceError(
        f"The address (--address or RAY_ADDRESS) is {_address()!r}, and no Ray cluster answers there ({reason}); start "
        "one with `ray start --head`, give the address of a running one with --address, or use only this machine with "
        "--address local."
    )


def _not_started(error: BaseException, folder: Path | None) -> DimError:
    """Explain in one sentence why Ray didn't start with this folder, or why the cluster wasn't joined."""
    logs = [handler.baseFilename for handler in logging.root.handlers if isinstance(handler, logging.FileHandler)]
    if folder is None:
        if isinstance(error, ConnectionError):
            return _no_cluster(_brief(error.__cause__ or error))
        return ResourceError(
            f"The Ray cluster at {_address()!r} (--address or RAY_ADDRESS) can't be joined: {_brief(error)}. To use "
            f"only this machine, give --address local.{_more_in(logs)}"
        )
    rays = [str(logs) for logs in folder.glob("session_2*/logs")]
    if not rays:
        shutil.rmtree(folder, ignore_errors=True)
    return DimError(f"Ray didn't start on this machine: {_brief(error)}.{_more_in([*rays, *logs])}")


def _more_in(logs: list[str]) -> str:
    return f" More is in {' and '.join(logs)}." if logs else ""


def _brief(error: BaseException) -> str:
    """Return an error in one line."""
    text = str(error)
    if "Traceback" in text:  # it ends with its error
        text = text.strip().splitlines()[-1]
    return textwrap.shorten(text, _MOST_CHARACTERS, placeholder=" ...").rstrip(".") or type(error).__name__


class _LogFile(io.TextIOBase):
    """A text stream into the log."""

    def write(self, text: str) -> int:
        if text.strip():
            log.warning("Ray: %s", text.strip())
        return len(text)


def _quiet_ray() -> None:
    """Keep Ray's own display off the terminal: ours replaces it, and Ray's messages go to the log file."""
    ray_log = logging.getLogger("ray")
    ray_log.handlers.clear()
    ray_log.propagate = True
    # Ray reads these when its parts are imported.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    # A trial reports only accuracy; further objectives come from its generator's card, at its end.
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
