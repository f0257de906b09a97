"""Private names of Ray, and what to do if one goes; of Optuna none is used."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest
import ray

ROOT = Path(__file__).parents[2]
PRIVATE = re.compile(
    r"ray\.[\w.]*\b_(private|internal)\b"  # modules
    r"|node:__internal_head__"
    r"|\b_(temp_dir|node_ip_address)=|ENABLE_RAY_CLUSTER"  # options
    r"|optuna\.[\w.]*\b_\w"
    r"|_ot_(trials|study)|_completed_trials|_all_grids"  # of classes that are not to be derived from again
)
USERS = {
    "trainer.py",
    "cluster/autoscaler.py",
    "cluster/own_ray.py",
    "cluster/placement.py",
    "cluster/spot.py",
}
"""Files below dim_ray/distributed that have private names."""
MODULES = {
    "ray.train.v2._internal.exceptions.WorkerHealthCheckFailedError": "kill a worker of "
    "tests/distributed/test_trainer.py, look which error Ray Train raises, and name it in trainer.py. Without it a "
    "dead worker ends a study instead of being started again.",
    "ray.autoscaler._private.aws.node_provider.AWSNodeProvider": "look where `ray up` takes its provider of AWS from "
    "(ray/autoscaler/_private/providers.py). If there is none, leave AwsProvider out, and the spot types out of "
    "cluster.yaml.",
    "ray.autoscaler._private.gcp.node_provider.GCPNodeProvider": "as for AWSNodeProvider, with cluster/gcp.yaml.",
    "ray._private.ray_constants.ENABLE_RAY_CLUSTER": "start a Ray with address='local' and see whether it listens on "
    "127.0.0.1 only (tests/distributed/cluster/test_own_ray.py). If so, own_ray.py needn't set it.",
    "ray.autoscaler._private.kuberay.autoscaling_config._derive_autoscaling_config_from_ray_cr": "make_config_reader "
    "may return None instead, and the software then waits for nodes as on a cluster that doesn't grow.",
    "ray.autoscaler._private.kuberay.node_provider.KubernetesHttpApiClient": "the same.",
}


@pytest.mark.parametrize("name", MODULES)
def test_private_name_is_there(name: str) -> None:
    if name.endswith("NodeProvider"):
        pytest.importorskip("boto3" if ".aws." in name else "googleapiclient")
    module, _, own = name.rpartition(".")
    try:
        getattr(importlib.import_module(module), own)
    except (ImportError, AttributeError) as error:
        pytest.fail(f"Ray {ray.__version__} has no {name} any more ({error}): {MODULES[name]}")


@pytest.mark.parametrize("name", ["_node_ip_address", "_temp_dir"])
def test_option_of_ray_init_is_there(name: str) -> None:
    assert name in inspect.signature(ray.init).parameters or f'"{name}"' in inspect.getsource(ray.init), (
        f"ray.init takes {name} no more: look in its documentation for the public option; without one, start Ray "
        "by `ray start --head` with --node-ip-address and --temp-dir, and join it."
    )


def test_no_other_file_has_a_private_name_of_ray_or_optuna() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for package in ("dim_ray", "tuning", "benchmarks")
        for path in (ROOT / package).rglob("*.py")
        if PRIVATE.search(path.read_text(encoding="utf-8"))
    }
    assert found == {f"dim_ray/distributed/{name}" for name in USERS}, "name it here, with what to do when it goes"
