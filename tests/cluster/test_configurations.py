from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jsonschema
import pytest
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.schema import AutoscalerInstance
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import NodeState, NodeStatus
from ray.core.generated.instance_manager_pb2 import Instance, NodeKind

from tests.helpers.cluster_files import FOLDER, LAUNCHED, ROOT, head_port, load, locked, prepared

AUTOSCALED = ["cluster.yaml", "gcp.yaml"]
DESCRIBED = [path for path in (ROOT / "cluster.yaml", *sorted(FOLDER.iterdir())) if path.is_file()]


@pytest.mark.parametrize("name", LAUNCHED)
def test_configuration_is_accepted_by_ray(name: str) -> None:
    assert prepared(load(name))["cluster_name"]


def test_configuration_with_a_key_that_ray_does_not_know_is_refused() -> None:
    with pytest.raises(jsonschema.ValidationError, match="no_such_key"):
        prepared({**load("cluster.yaml"), "no_such_key": 1})


@pytest.mark.parametrize("name", LAUNCHED)
def test_what_is_sent_to_the_nodes_is_the_code_and_the_lock_of_the_checkout(name: str) -> None:
    mounts = load(name)["file_mounts"]
    sent = {local for local in mounts.values() if not local.startswith("~")}
    assert {target: local for target, local in mounts.items() if local in sent} == {
        f"~/dim-ray/{local}": local for local in sent
    }
    tracked = subprocess.run(
        ["git", "ls-files", "--error-unmatch", *sent], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert tracked.returncode == 0, tracked.stderr
    assert sent == {"dim_ray", "tuning", "cluster", "requirements.lock"}
    assert mounts["~/.ray/auth_token"] == "~/.ray/auth_token"


@pytest.mark.parametrize("name", LAUNCHED)
def test_every_node_is_set_up_and_started_by_the_shared_scripts(name: str) -> None:
    config = prepared(load(name))
    for commands in (config["head_setup_commands"], config["worker_setup_commands"]):
        assert all(re.match(r"bash ~/dim-ray/cluster/setup_node\.sh ", command) for command in commands)
        assert len(commands) == len(set(commands)) >= 1
    assert "setup_node.sh --head" in config["head_setup_commands"][-1]
    (head,), (worker,) = config["head_start_ray_commands"], config["worker_start_ray_commands"]
    assert "bash ~/dim-ray/cluster/start_node.sh ray start --head " in head
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    assert worker == "bash ~/dim-ray/cluster/start_node.sh ray start --address=$RAY_HEAD_IP"


def test_versions_of_images_are_those_of_the_lock() -> None:
    found = [
        (path.name, *tag)
        for path in DESCRIBED
        for tag in re.findall(r"rayproject/ray:([\d.]+)-py(\d)(\d+)", path.read_text())
    ]
    makefile = re.search(r"--python-version (\d)\.(\d+)", (ROOT / "Makefile").read_text())
    assert makefile is not None
    assert {name for name, *_ in found} == {"cluster.yaml", "gcp.yaml"}
    assert {tuple(tag) for _, *tag in found} == {(locked("ray"), *makefile.groups())}


def test_python_of_the_nodes_is_that_of_the_lock() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (version,) = re.findall(r"--python-version ([\d.]+)", makefile)
    for name in ("setup_node.sh", "Dockerfile"):
        assert set(re.findall(r"python:?(\d\.\d+)", (FOLDER / name).read_text())) == {version}


def test_the_heads_port_is_written_down_once() -> None:
    port = str(head_port())
    others = [path.name for path in DESCRIBED if path.name != "start_node.sh" and port in path.read_text()]
    assert others == []


@pytest.mark.parametrize("path", DESCRIBED, ids=lambda path: path.name)
def test_no_package_is_named_beside_the_lock(path: Path) -> None:
    assert not re.search(
        r"\b(?:pip|uv|conda)\b.* install (?!--quiet.*--require-hashes)", path.read_text().replace("\\\n", "")
    )


@pytest.mark.parametrize("name", AUTOSCALED)
def test_head_gets_no_work_and_workers_one_gpu_each(name: str) -> None:
    config = prepared(load(name))
    types = dict(config["available_node_types"])
    assert types.pop(config["head_node_type"])["resources"] == {"CPU": 0, "GPU": 0}
    assert [node["resources"]["GPU"] for node in types.values()] == [1, 1]
    assert {node["min_workers"] for node in types.values()} == {0}


def test_ray_opens_no_port_on_aws() -> None:
    config = prepared(load("cluster.yaml"))
    for node in config["available_node_types"].values():
        # Where Ray makes a group, it opens SSH to the world.
        assert node["node_config"]["SecurityGroupIds"] == config["metadata"]["security_groups"]
        assert node["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}


@pytest.mark.parametrize("name", AUTOSCALED)
def test_spot_instances_are_asked_for_first_and_others_where_there_are_none(name: str) -> None:
    config = prepared(load(name))
    assert launches(config, num_trials=2) == {"gpu_spot": 2}
    assert launches(config, num_trials=2, refused={"gpu_spot": 0.0}) == {"gpu_on_demand": 2}


@pytest.mark.parametrize("name", AUTOSCALED)
def test_as_many_nodes_are_started_as_are_asked_for_and_no_more_than_are_allowed(name: str) -> None:
    config = prepared(load(name))
    assert launches(config, num_trials=0) == {}
    assert launches(config, num_trials=100) == {"gpu_spot": config["max_workers"]}


def launches(
    config: dict[str, Any], *, num_trials: int, refused: Mapping[str, float] = MappingProxyType({})
) -> dict[str, int]:
    """Returns how many nodes of each type Ray's autoscaler starts for trials of a GPU each.

    Args:
        config: Of the cluster.
        num_trials: That wait.
        refused: Availability of types that the cloud had none of lately.
    """
    autoscaling = AutoscalingConfig(config, skip_content_hash=True)
    trial = ResourceRequestUtil.make({"CPU": 1, "GPU": 1})
    head = AutoscalerInstance(
        im_instance=Instance(instance_id="head", instance_type=config["head_node_type"], status=Instance.RAY_RUNNING),
        ray_node=NodeState(
            node_id=b"head",
            ray_node_type_name=config["head_node_type"],
            instance_id="head",
            status=NodeStatus.RUNNING,
        ),
        cloud_instance_id="head",
    )
    head.im_instance.node_kind = NodeKind.HEAD
    reply = ResourceDemandScheduler(event_logger=None).schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=autoscaling.get_node_type_configs(),
            max_num_nodes=autoscaling.get_max_num_nodes(),
            resource_requests=ResourceRequestUtil.group_by_count([trial] * num_trials),
            current_instances=[head],
            cloud_resource_availabilities=dict(refused),
            recoverable_resource_availabilities=dict(refused),
        )
    )
    return {launch.instance_type: launch.count for launch in reply.to_launch}
