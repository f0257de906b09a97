"""A study on a cluster that begins with its head alone, which trains nothing, and whose autoscaler starts the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE

from tests.helpers.cluster_files import ROOT
from tests.helpers.hosts import Network, missing
from tests.helpers.runs import FLAGS, NO_TOKEN, evaluations, trials

pytestmark = [
    pytest.mark.multihost,
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]

# Nodes of Ray's own double of a cloud are processes beside the head.
CONFIGURATION = {
    "cluster_name": "double",
    "max_workers": 2,
    "idle_timeout_minutes": 5,
    "provider": {
        "type": "external",  # as its own type lacks a file in Ray's wheel
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "launch_multiple": True,
        "head_node_id": FAKE_HEAD_NODE_ID,
    },
    "available_node_types": {
        FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
    "head_node_type": FAKE_HEAD_NODE_TYPE,
    "auth": {},
    "docker": {},
    "file_mounts": {},
    **{
        f"{name}_commands": list[str]()
        for name in ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    },
    "cluster_synced_files": [],
}
SWITCHES = (
    "AUTOSCALER_UPDATE_INTERVAL_S=1",
    "RAY_FAKE_CLUSTER=1",
    "RAY_enable_autoscaler_v2=1",
    f"RAY_CLOUD_INSTANCE_ID={FAKE_HEAD_NODE_ID}",
    f"RAY_OVERRIDE_NODE_ID_FOR_TESTING={FAKE_HEAD_NODE_ID}",
)


def test_study_starts_the_nodes_that_it_needs(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    storage.mkdir()
    configuration = storage / "cluster.json"
    configuration.write_text(json.dumps(CONFIGURATION))
    environment = [*(f"{name}={value}" for name, value in NO_TOKEN.items()), f"PYTHONPATH={ROOT}", "OMP_NUM_THREADS=1"]
    arguments = [word for flag, value in FLAGS.items() for word in (flag, *value.split())]
    with Network(shared=[ROOT, storage]) as network:
        head = network.add("head")
        copy = head.run("cp", str(configuration), "/root/ray_bootstrap_config.yaml")  # where `ray up` puts it
        assert copy.returncode == 0, copy.stderr
        begun = head.run(
            *("ray", "start", "--head", "--num-cpus=0", "--autoscaling-config=/root/ray_bootstrap_config.yaml"),
            environment=[*environment, *SWITCHES],
        )
        assert begun.returncode == 0, begun.stderr
        study = head.run(
            *("python", "-m", "dim_ray.tune", "--storage", str(storage), *arguments),
            environment=[*environment, "RAY_ADDRESS=auto"],
            seconds=500,
        )
    log = "".join(file.read_text() for file in storage.glob("studies/*/study.log"))
    assert study.returncode == 0, f"{study.stderr}\n{log}"
    assert "the cluster starts nodes as they are needed" in study.stderr
    assert "max_concurrent=2" in log
    assert trials(storage)["state"].tolist() == ["completed"] * 2
    assert len(evaluations(storage))
