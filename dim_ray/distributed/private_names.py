"""Every private name of Ray that is used anywhere, each with its reason; of Optuna there is none.

    from dim_ray.distributed.private_names import AWSNodeProvider

Ray may change them in any version: `tests/distributed/test_private_names.py` says for each what to do then. They are
imported on first use, because not every process needs what they import.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["HEAD", "MODULES", "init_options", "make_config_reader", "without_public_address"]

HEAD = "node:__internal_head__"
"""Resource of the head's node, by which a task is placed there: nothing public tells the head from other nodes."""

MODULES = {
    # Ray Train raises it for a worker that died; a public error is only its cause in some versions.
    "WorkerHealthCheckFailedError": "ray.train.v2._internal.exceptions",
    # The providers of `ray up`, whose refused spot machines become ones on demand: Ray has no public name for either.
    "AWSNodeProvider": "ray.autoscaler._private.aws.node_provider",
    "GCPNodeProvider": "ray.autoscaler._private.gcp.node_provider",
    # Whether `ray.init` replaces the loopback address by a public one, as it does on Linux.
    "ray_constants": "ray._private",
}
"""Modules by the private names that are taken from them here."""


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"{__name__} has no {name!r}; known: {', '.join(MODULES)}.")
    module = importlib.import_module(MODULES[name])
    return getattr(module, name) if hasattr(module, name) else importlib.import_module(f"{MODULES[name]}.{name}")


def init_options(address: str, folder: Path) -> dict[str, str]:
    """Return options of `ray.init` for its address and folder, which only `ray start` takes under public names."""
    return {"_node_ip_address": address, "_temp_dir": str(folder)}


@contextmanager
def without_public_address() -> Iterator[None]:
    """Keep `ray.init` on the address that it's given."""
    constants = __getattr__("ray_constants")
    before = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


def make_config_reader() -> Callable[[], dict[str, Any] | None]:
    """Return a function that returns, on the head, its autoscaler's configuration, or None if it can't be read."""

    # Ray sends a local function as code: the head may have another version of ours, or none.
    def read_config() -> dict[str, Any] | None:
        import os
        from pathlib import Path

        import yaml

        name, namespace = os.environ.get("RAY_CLUSTER_NAME"), os.environ.get("RAY_CLUSTER_NAMESPACE")
        if not (name and namespace):  # which KubeRay sets
            path = Path(os.path.expanduser("~"), "ray_bootstrap_config.yaml")  # where Ray's launcher puts it
            return dict(yaml.safe_load(path.read_text(encoding="utf-8"))) if path.exists() else None
        # Ray has no public way: its autoscaler publishes nothing of the nodes that it may start. Its role in
        # Kubernetes, which is the head's too, may read the RayCluster.
        from ray.autoscaler._private.kuberay import autoscaling_config
        from ray.autoscaler._private.kuberay.node_provider import KubernetesHttpApiClient

        try:
            found = KubernetesHttpApiClient(namespace).get(f"rayclusters/{name}")
            if not found["spec"].get("enableInTreeAutoscaling"):
                return None
            return dict(autoscaling_config._derive_autoscaling_config_from_ray_cr(found))
        except (OSError, KeyError, ValueError):  # no role, no answer, or a group without its limits
            return None

    return read_config
