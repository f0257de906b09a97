"""What the machine or cluster has, and how many trials fit on it side by side.

with cluster(config) as resources:
placement = plan_placement(config.study, resources)
"""

from __future__ import annotations

import io
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch

from dim_ray.config import Config, StudyConfig
from dim_ray.distributed.address import make_address_hook
from dim_ray.errors import ResourceError

__all__ = ["DRIVER_RESOURCE", "Placement", "cluster", "joins_a_cluster", "local_resources", "plan_placement"]

DRIVER_RESOURCE = "trial_driver"
"""Custom resource for trials that only wait for their workers, so that they take no CPU from them."""

_DRIVERS_ON_ONE_MACHINE = 1000

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What one trial holds, and how many run side by side."""

    num_workers: int
    cpus_per_worker: int
    gpus_per_worker: float
    max_concurrent: int


def plan_placement(study: StudyConfig, resources: Mapping[str, float]) -> Placement:
    """Derives the number of concurrent trials.

    Args:
        study: Workers of a trial, and what each of them needs.
        resources: The cluster's, by Ray's names.

    Raises:
        ResourceError: Not even one trial can ever be placed.
    """
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    gpus_per_worker = (1.0 if gpus else 0.0) if study.gpus_per_worker is None else study.gpus_per_worker
    needs = {"CPU": study.workers_per_trial * study.cpus_per_worker, "GPU": study.workers_per_trial * gpus_per_worker}
    workers = math.floor(cpus / study.cpus_per_worker)
    if gpus_per_worker > 1:
        workers = min(workers, math.floor(gpus / gpus_per_worker))
    elif gpus_per_worker > 0:  # workers share a GPU, and none is spread over two
        workers = min(workers, math.floor(gpus) * math.floor(1 / gpus_per_worker))
    trials = workers // study.workers_per_trial
    if trials < 1:
        raise ResourceError(
            f"a trial can never be placed: {study.workers_per_trial} workers x {study.cpus_per_worker} CPUs and "
            f"{gpus_per_worker:g} GPUs need {needs['CPU']:g} CPUs and {needs['GPU']:g} GPUs, and there are {cpus:g} "
            f"CPUs and {gpus:g} GPUs in all; lower --workers-per-trial, study.cpus_per_worker or "
            "study.gpus_per_worker, or use a larger cluster."
        )
    return Placement(
        num_workers=study.workers_per_trial,
        cpus_per_worker=study.cpus_per_worker,
        gpus_per_worker=gpus_per_worker,
        max_concurrent=trials if study.max_concurrent is None else min(study.max_concurrent, trials),
    )


def local_resources() -> dict[str, float]:
    """Returns what Ray will find on this machine, without starting it."""
    return {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}


def joins_a_cluster() -> bool:
    """Whether RAY_ADDRESS names a cluster to join; otherwise Ray is started on this machine."""
    return bool(os.environ.get("RAY_ADDRESS"))


@contextmanager
def cluster(config: Config) -> Iterator[Mapping[str, float]]:
    """Joins the cluster that RAY_ADDRESS names, or starts Ray on this machine; ends it again.

    Yields:
        The resources, by Ray's names.
    """
    import ray  # here, because a plan is made and refused without it

    _quiet_ray()
    options: dict[str, Any] = {"configure_logging": False, "log_to_driver": False}
    if config.study.workers_per_trial > 1:
        options["runtime_env"] = {"worker_process_setup_hook": make_address_hook()}
    if not joins_a_cluster():
        # Processes that built the networks stay while the trials have theirs, and evaluate afterwards: a new one spends
        # ten seconds on importing. The default is one process a core.
        os.environ.setdefault("RAY_num_workers_soft_limit", str(2 * (os.cpu_count() or 1)))
        options |= {
            "address": "local",  # never that of somebody else who happens to run one here
            # The dashboard's processes cost memory and seconds; they are needed where trials make placement groups,
            # which leak without them.
            "include_dashboard": config.study.workers_per_trial > 1,
            "dashboard_host": "127.0.0.1",
            "resources": {DRIVER_RESOURCE: _DRIVERS_ON_ONE_MACHINE},
        }
    # Ray prints what its nodes complain about, such as the death of a worker.
    with redirect_stdout(_LogFile()):
        ray.init(**options)
        try:
            yield ray.cluster_resources()
        finally:
            ray.shutdown()


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
