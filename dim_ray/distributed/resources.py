"""What the machine or cluster has, and how many trials fit on it side by side.

    with cluster(config, progress) as placement:
        print(placement.max_concurrent)

RAY_ADDRESS, or --address, names a cluster to join; without it Ray is started on this machine, and ended with the body.
"""

from __future__ import annotations

import io
import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch

from dim_ray.config import Config, StudyConfig
from dim_ray.distributed.address import make_address_hook
from dim_ray.distributed.own_ray import agents_end_with_driver, own_ray
from dim_ray.errors import DimError, ResourceError
from dim_ray.progress import Progress
from dim_ray.progress.stages import counted

__all__ = [
    "DRIVER_SHARE",
    "HEAD",
    "Growth",
    "Node",
    "Placement",
    "cluster",
    "joins_a_cluster",
    "local_resources",
    "plan_placement",
    "workers_that_fit",
]

HEAD = "node:__internal_head__"
"""A resource of the head node alone."""
DRIVER_SHARE = {HEAD: 0.001}
"""What a trial holds that only waits for its workers: next to nothing of the head node, and nothing that they need."""

Node = Mapping[str, float]
"""What a node has, by Ray's names."""

_STAGE = "Ray"
_NO_ADDRESSES = ("", "local")
_SECONDS_TO_ANSWER = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What one trial holds, and how many run side by side."""

    num_workers: int
    cpus_per_worker: int
    gpus_per_worker: float
    max_concurrent: int


@dataclass(frozen=True, kw_only=True)
class Growth:
    """The nodes that there may be once an autoscaler has started all that it may."""

    head: Node
    workers: Sequence[Node]
    """As many of each type as there may be of it."""
    max_workers: int
    """Nodes at a time beside the head, of all types."""


def plan_placement(study: StudyConfig, nodes: Sequence[Node], growth: Growth | None = None) -> Placement:
    """Derives the number of concurrent trials. A worker lies on one node, those of a trial on any.

    Args:
        study: Workers of a trial, and what each of them needs.
        nodes: Those that are there.
        growth: Those that there may be, where an autoscaler starts them.

    Raises:
        ResourceError: Not even one trial can ever be placed.
    """
    possible = [*nodes, *(growth.workers if growth else ())]
    has_gpus = any(node.get("GPU") for node in possible)
    gpus_per_worker = float(has_gpus) if study.gpus_per_worker is None else study.gpus_per_worker

    def workers_on(node: Node) -> int:
        return workers_that_fit(study.cpus_per_worker, gpus_per_worker, node)

    def workers_in(nodes: Sequence[Node]) -> int:
        return sum(map(workers_on, nodes))

    if growth:
        best = sorted(growth.workers, key=workers_on, reverse=True)[: growth.max_workers]
        nodes = max([growth.head, *best], nodes, key=workers_in)
    workers = workers_in(nodes)
    trials = workers // study.workers_per_trial
    if trials < 1:
        largest = max(possible, key=lambda node: (min(_gpus(node), gpus_per_worker), _cpus(node)), default={})
        raise ResourceError(
            f"a trial can never be placed: {counted(study.workers_per_trial, 'worker')} x "
            f"{counted(study.cpus_per_worker, 'CPU')} and {gpus_per_worker:g} GPUs, each worker on one node, and there "
            f"is room for {workers} on {counted(len(nodes), 'node')}, the largest with {_cpus(largest):g} CPUs and "
            f"{_gpus(largest):g} GPUs; lower --workers-per-trial, study.cpus_per_worker or study.gpus_per_worker, or "
            "use more or larger nodes."
        )
    return Placement(
        num_workers=study.workers_per_trial,
        cpus_per_worker=study.cpus_per_worker,
        gpus_per_worker=gpus_per_worker,
        max_concurrent=trials if study.max_concurrent is None else min(study.max_concurrent, trials),
    )


def workers_that_fit(cpus_per_worker: int, gpus_per_worker: float, node: Node) -> int:
    """Returns how many workers fit on a node.

    Args:
        cpus_per_worker: CPU cores of one.
        gpus_per_worker: GPUs of one.
        node: The node.
    """
    cpus, gpus = _cpus(node), _gpus(node)
    workers = math.floor(cpus / cpus_per_worker)
    if gpus_per_worker > 1:
        return min(workers, math.floor(gpus / gpus_per_worker))
    if gpus_per_worker > 0:  # workers share a GPU, and none is spread over two
        return min(workers, math.floor(gpus) * math.floor(1 / gpus_per_worker))
    return workers


def local_resources() -> Node:
    """Returns what Ray will find on this machine, without starting it."""
    return {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}


def joins_a_cluster() -> bool:
    """Whether RAY_ADDRESS names a cluster to join; otherwise Ray is started on this machine."""
    return _address() not in _NO_ADDRESSES


@contextmanager
def cluster(config: Config, progress: Progress) -> Iterator[Placement]:
    """Joins the cluster that RAY_ADDRESS names, or starts Ray on this machine; ends it again.

    Args:
        config: What a trial needs.
        progress: Is told about one stage, the start of Ray.

    Yields:
        What one trial holds, and how many run side by side.

    Raises:
        ResourceError: A trial can never be placed, or no cluster answers at RAY_ADDRESS.
        DimError: Ray's processes didn't come up in time.
    """
    if joins_a_cluster():
        _check_address()
    else:  # refused without starting Ray
        plan_placement(config.study, [local_resources()])
    progress.start(_STAGE, 1, "cluster")
    import ray

    _quiet_ray()
    options: dict[str, Any] = {"configure_logging": False, "log_to_driver": False}
    if config.study.workers_per_trial > 1:
        options["runtime_env"] = {"worker_process_setup_hook": make_address_hook()}
    on_terminate = signal.getsignal(signal.SIGTERM)
    # Ray prints what its nodes complain about, such as the death of a worker.
    with redirect_stdout(_LogFile()):
        try:
            if joins_a_cluster():
                ray.init(**options)
            else:
                with own_ray(with_dashboard=config.study.workers_per_trial > 1) as own:
                    ray.init(**options, **own)
        except ConnectionError as error:
            raise _no_cluster(str(error.__cause__ or error)) from error
        except Exception as error:
            if type(error) is not Exception:  # Ray's own, where its processes don't come up in time, has no other name
                raise
            raise DimError(f"Ray didn't start ({error}); is the machine very busy? Run the command again.") from error
        if threading.current_thread() is threading.main_thread():  # Ray's own handler prints a stack
            signal.signal(signal.SIGTERM, on_terminate)
        try:
            nodes, growth = _joined_nodes(progress) if joins_a_cluster() else ([ray.cluster_resources()], None)
            placement = plan_placement(config.study, nodes, growth)
            log.info("Nodes: %s; growth: %s; placement: %s", nodes, growth, placement)
            with nullcontext() if joins_a_cluster() else agents_end_with_driver():
                yield placement
        finally:
            ray.shutdown()


def _joined_nodes(progress: Progress) -> tuple[Sequence[Node], Growth | None]:
    from dim_ray.distributed.growth import nodes_with_growth  # imports Ray

    return nodes_with_growth(progress)


def _cpus(node: Node) -> float:
    return node.get("CPU", 0.0)


def _gpus(node: Node) -> float:
    return node.get("GPU", 0.0)


def _address() -> str:
    return os.environ.get("RAY_ADDRESS", "")


def _check_address() -> None:
    """Refuses HOST:PORT where nobody listens: Ray would try for many minutes."""
    host, _, port = _address().rpartition(":")
    if not host or "/" in host or not port.isdecimal():  # "auto", or an address with a scheme
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(str(error)) from error


def _no_cluster(reason: str) -> ResourceError:
    brief = reason.strip().splitlines()[-1].rstrip(".")  # the last line of a traceback is its error
    return ResourceError(
        f"RAY_ADDRESS is {_address()!r}, and no Ray cluster answers there ({brief}); start one with "
        "`ray start --head`, give the address of one that runs with --address, or --address local to use this machine "
        "alone."
    )


class _LogFile(io.TextIOBase):
    """Writes what is printed to the log."""

    def write(self, text: str) -> int:
        if text.strip():
            log.warning("Ray: %s", text.strip())
        return len(text)


def _quiet_ray() -> None:
    """Keeps Ray's own display off the terminal; ours replaces it, and its messages go to the log file."""
    ray_log = logging.getLogger("ray")
    ray_log.handlers.clear()
    ray_log.propagate = True
    # Ray's switches, read when its parts are imported.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    # Of several objectives a trial reports accuracy alone; the others come from its generator's card, at its end.
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
