"""Private names of Ray: they are there, in one file, and if one goes, its test says what to do."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import ray

from dim_ray.distributed import private_names

ROOT = Path(__file__).parents[2]
PRIVATE = re.compile(
    r"ray\.[\w.]*\b_(private|internal)\b"  # modules
    r"|node:__internal_head__"
    r"|\b_(temp_dir|node_ip_address)=|ENABLE_RAY_CLUSTER"  # options
    r"|optuna\.[\w.]*\b_\w"
    r"|_ot_(trials|study)|_completed_trials|_all_grids"  # of classes that are not to be derived from again
)
WHAT_TO_DO = {
    "WorkerHealthCheckFailedError": "kill a worker of tests/distributed/test_trainer.py, look which error Ray Train "
    "raises, and name it in MODULES. Without it a dead worker ends a study instead of being started again.",
    "AWSNodeProvider": "look where `ray up` takes its provider of AWS from (ray/autoscaler/_private/providers.py). "
    "If there is none, leave AwsProvider out, and the spot types out of cluster/aws.yaml.",
    "GCPNodeProvider": "as for AWSNodeProvider, with cluster/gcp.yaml.",
    "ray_constants": "start a Ray with address='local' and see whether it listens on 127.0.0.1 only "
    "(tests/distributed/cluster/test_own_ray.py). If so, without_public_address can go.",
}


@pytest.mark.parametrize("name", private_names.MODULES)
def test_private_name_is_there(name: str) -> None:
    if name.endswith("NodeProvider"):
        pytest.importorskip("boto3" if name.startswith("AWS") else "googleapiclient")
    try:
        getattr(private_names, name)
    except (ImportError, AttributeError) as error:
        pytest.fail(f"Ray {ray.__version__} has no {name} any more ({error}): {WHAT_TO_DO[name]}")


def test_switch_of_the_public_address_is_there_and_is_set_back() -> None:
    constants: Any = private_names.ray_constants
    before = constants.ENABLE_RAY_CLUSTER
    with private_names.without_public_address():
        assert constants.ENABLE_RAY_CLUSTER is False, WHAT_TO_DO["ray_constants"]
    assert before == constants.ENABLE_RAY_CLUSTER


def test_options_of_ray_init_are_there() -> None:
    known = inspect.signature(ray.init).parameters
    source = inspect.getsource(ray.init)
    for name in private_names.init_options("127.0.0.1", Path()):
        assert name in known or f'"{name}"' in source, (
            f"ray.init takes {name} no more: look in its documentation for the public option; without one, start Ray "
            "by `ray start --head` with --node-ip-address and --temp-dir, and join it."
        )


def test_kuberays_configuration_is_read_as_before() -> None:
    try:
        from ray.autoscaler._private.kuberay import autoscaling_config
        from ray.autoscaler._private.kuberay.node_provider import KubernetesHttpApiClient
    except ImportError as error:
        pytest.fail(
            f"Ray's autoscaler for Kubernetes has moved ({error}): make_config_reader may return None instead, and the "
            "software then waits for nodes as on a cluster that doesn't grow."
        )
    assert callable(autoscaling_config._derive_autoscaling_config_from_ray_cr)
    assert callable(KubernetesHttpApiClient.get)


def test_no_other_file_has_a_private_name_of_ray_or_optuna() -> None:
    own = Path(private_names.__file__)
    found = {
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for package in ("dim_ray", "tuning", "benchmarks")
        for path in (ROOT / package).rglob("*.py")
        if path != own
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if PRIVATE.search(line)
    }
    assert found == set(), "move these to dim_ray/distributed/private_names.py, with their reason and a test here"


def test_every_private_name_says_what_to_do_when_it_goes() -> None:
    assert WHAT_TO_DO.keys() == private_names.MODULES.keys()
