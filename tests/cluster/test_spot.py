"""Ray's own autoscaler with a cloud that refuses spot machines."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ray.autoscaler._private import providers
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.gcp.node_provider import GCPNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.v2 import autoscaler
from ray.autoscaler.v2.instance_manager.config import FileConfigReader
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import ClusterResourceState, NodeState, NodeStatus

from dim_ray.distributed.cluster.placement import HEAD
from tests.helpers.cluster_files import load, prepared

CLOUDS = {
    "cluster.yaml": (AWSNodeProvider, NodeLaunchException("InsufficientInstanceCapacity", "no spot capacity", None)),
    "gcp.yaml": (GCPNodeProvider, Exception({"errors": [{"code": "ZONE_RESOURCE_POOL_EXHAUSTED"}]})),
}


class Cloud:
    """What a cloud was asked for, and the nodes that it started, in place of one of Ray's providers.

    Args:
        patch: Ends with the test.
        name: The configuration's.
        num_free: Spot machines.
        has_any: Whether there are machines on demand.
    """

    def __init__(self, patch: pytest.MonkeyPatch, name: str, *, num_free: int = 0, has_any: bool = True) -> None:
        provider, self._refusal = CLOUDS[name]
        self._num_free, self._has_any = num_free, has_any
        self.asked: list[tuple[bool, int]] = []
        self.tags: dict[str, dict[str, str]] = {"head": {"ray-node-type": "head", "ray-user-node-type": "head"}}
        patch.setattr(provider, "__init__", lambda *_: None)
        patch.setattr(provider, "create_node", lambda _, *given: self._create(*given))
        patch.setattr(provider, "non_terminated_nodes", lambda *_: list(self.tags))
        patch.setattr(provider, "node_tags", lambda _, node: self.tags[node])
        patch.setattr(provider, "is_running", lambda _, node: node == "head")
        patch.setattr(providers, "_provider_instances", {})

    def _create(self, config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        is_spot = "InstanceMarketOptions" in config or "provisioningModel" in config.get("scheduling", {})
        self.asked.append((is_spot, count))
        if (self._num_free < count) if is_spot else not self._has_any:
            raise self._refusal
        self._num_free -= count if is_spot else 0
        started = {f"node{len(self.tags) + number}": tags for number in range(count)}
        self.tags |= started
        return started


@pytest.mark.parametrize("name", CLOUDS)
def test_refused_spot_machine_is_asked_for_on_demand_in_the_same_round(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = Cloud(monkeypatch, name)
    look(name, 1, tmp_path, monkeypatch, num_rounds=1)
    assert cloud.asked == [(True, 1), (False, 1)]
    look(name, 1, tmp_path, monkeypatch, num_rounds=2)  # which sees the machine that has started
    assert len(cloud.asked) == 2


@pytest.mark.parametrize("name", CLOUDS)
def test_only_those_that_are_refused_are_started_on_demand(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = Cloud(monkeypatch, name, num_free=2)
    look(name, 3, tmp_path, monkeypatch, num_rounds=4)
    assert cloud.asked == [(True, 1)] * 3 + [(False, 1)]
    assert len(cloud.tags) == 1 + 3


@pytest.mark.parametrize("name", CLOUDS)
def test_cloud_without_any_machine_is_asked_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = Cloud(monkeypatch, name, has_any=False)
    look(name, 1, tmp_path, monkeypatch, num_rounds=4)
    assert len(cloud.asked) >= 4
    assert cloud.asked[::2] == [(True, 1)] * (len(cloud.asked) // 2)
    assert cloud.asked[1::2] == [(False, 1)] * (len(cloud.asked) // 2)


@pytest.mark.parametrize("name", CLOUDS)
def test_as_many_nodes_are_started_as_are_asked_for_and_no_more_than_are_allowed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = Cloud(monkeypatch, name, num_free=100)
    look(name, 0, tmp_path, monkeypatch, num_rounds=2)
    assert cloud.asked == []
    look(name, 100, tmp_path, monkeypatch, num_rounds=4)
    assert len(cloud.asked) == load(name)["max_workers"]


def look(name: str, num_trials: int, folder: Path, patch: pytest.MonkeyPatch, *, num_rounds: int) -> None:
    """Lets an autoscaler look at a cluster in which so many trials wait for a GPU each."""
    file = folder / "ray_bootstrap_config.yaml"
    file.write_text(yaml.safe_dump({**prepared(load(name)), "file_mounts": {}}))
    named = {"node_id": b"head", "instance_id": "head", "ray_node_type_name": "head", "total_resources": {HEAD: 1.0}}
    head = NodeState(**named, status=NodeStatus.RUNNING)
    trial = ResourceRequestUtil.make({"CPU": 1, "GPU": 1})
    waiting = ResourceRequestUtil.group_by_count([trial] * num_trials)
    state = ClusterResourceState(node_states=[head], pending_resource_requests=waiting)
    patch.setattr(autoscaler, "get_cluster_resource_state", lambda _: state)
    own = autoscaler.Autoscaler("session", FileConfigReader(str(file)), SimpleNamespace(address="127.0.0.1:1"))
    cloud = own._cloud_instance_provider
    cloud._node_launcher_executors = ThreadPoolExecutor(max_workers=1)
    for number in range(1, num_rounds + 1):
        state.cluster_resource_state_version = number
        assert own.update_autoscaling_state() is not None
        for executor in (cloud._main_executor, cloud._node_launcher_executors):
            executor.submit(int).result()  # after what the round asked of the cloud
