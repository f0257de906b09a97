from __future__ import annotations

import base64
import json
import os
import subprocess
import sys

import pytest
from ray import cloudpickle

from dim_ray.distributed.cluster.address import make_address_hook


def environment_after_the_hook(node_address: str, **environment: str) -> dict[str, str]:
    """Return the variables of a process without our code, on a node of this address, after the hook."""
    data = base64.b64encode(cloudpickle.dumps(make_address_hook())).decode()
    code = (
        "import ray.cloudpickle\n"  # its helpers are imported from ray, before it is replaced
        "import base64, json, os, pickle, sys, types\n"
        "sys.modules['dim_ray'] = None  # can't be imported\n"
        "context = types.SimpleNamespace(gcs_address='10.0.0.7:6379')\n"
        f"util = types.SimpleNamespace(get_node_ip_address=lambda: {node_address!r})\n"
        "sys.modules['ray'] = types.SimpleNamespace(get_runtime_context=lambda: context, util=util)\n"
        f"pickle.loads(base64.b64decode('{data}'))()\n"
        "print(json.dumps(dict(os.environ)))\n"
    )
    inherited = {name: value for name, value in os.environ.items() if not name.endswith("_SOCKET_IFNAME")}
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**inherited, **environment},
    )
    assert result.returncode == 0, result.stderr
    found: dict[str, str] = json.loads(result.stdout)
    return found


def test_hook_needs_nothing_of_ours_in_the_workers_process() -> None:
    """A worker runs it before it knows where our code is."""
    assert environment_after_the_hook("127.0.0.1")["RAY_ADDRESS"] == "10.0.0.7:6379"


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for its interfaces")
def test_hook_names_the_interface_of_the_nodes_address() -> None:
    found = environment_after_the_hook("127.0.0.1")
    assert (found["GLOO_SOCKET_IFNAME"], found["NCCL_SOCKET_IFNAME"]) == ("lo", "=lo")


def test_hook_leaves_a_variable_that_is_set() -> None:
    found = environment_after_the_hook("127.0.0.1", GLOO_SOCKET_IFNAME="eth9", NCCL_SOCKET_IFNAME="ib0")
    assert (found["GLOO_SOCKET_IFNAME"], found["NCCL_SOCKET_IFNAME"]) == ("eth9", "ib0")


@pytest.mark.parametrize("address", ["203.0.113.9", "fd00::9"])
def test_hook_sets_no_interface_where_none_has_the_address(address: str) -> None:
    found = environment_after_the_hook(address)
    assert found["RAY_ADDRESS"] == "10.0.0.7:6379"
    assert not [name for name in found if name.endswith("_SOCKET_IFNAME")]
