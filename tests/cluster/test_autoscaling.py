"""A study on a cluster that begins with its head alone, which trains nothing, and whose autoscaler starts the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE

from tests.helpers.cluster_files import ROOT
from tests.helpers.hosts import Host, Network, missing
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
ENVIRONMENT = [*(f"{name}={value}" for name, value in NO_TOKEN.items()), f"PYTHONPATH={ROOT}", "OMP_NUM_THREADS=1"]
SWITCHES = (
    "AUTOSCALER_UPDATE_INTERVAL_S=1",
    "RAY_FAKE_CLUSTER=1",
    "RAY_enable_autoscaler_v2=1",
    f"RAY_CLOUD_INSTANCE_ID={FAKE_HEAD_NODE_ID}",
    f"RAY_OVERRIDE_NODE_ID_FOR_TESTING={FAKE_HEAD_NODE_ID}",
)


JOIN = """
import sys

from dim_ray.config import Config
from dim_ray.distributed.cluster.joining import cluster
from dim_ray.progress import SilentProgress

class Progress(SilentProgress):
    def message(self, text):
        print(text, file=sys.stderr)

with cluster(Config(), Progress()) as placement:
    print("room for", placement.max_concurrent, file=sys.stderr)
"""


@contextmanager
def head_alone(folder: Path, configuration: str) -> Iterator[tuple[Host, Path]]:
    """Yields a head whose autoscaler reads its configuration there, and a storage that it shares with this machine."""
    storage = folder / "storage"
    storage.mkdir()
    (storage / "cluster.json").write_text(json.dumps(CONFIGURATION))
    with Network(shared=[ROOT, storage]) as network:
        head = network.add("head")
        copy = head.run("cp", str(storage / "cluster.json"), configuration)
        assert copy.returncode == 0, copy.stderr
        begun = head.run(
            *("ray", "start", "--head", "--num-cpus=0", f"--autoscaling-config={configuration}"),
            environment=[*ENVIRONMENT, *SWITCHES],
        )
        assert begun.returncode == 0, begun.stderr
        yield head, storage


def test_study_starts_the_nodes_that_it_needs(tmp_path: Path) -> None:
    arguments = [word for flag, value in FLAGS.items() for word in (flag, *value.split())]
    with head_alone(tmp_path, "/root/ray_bootstrap_config.yaml") as (head, storage):  # where `ray up` puts it
        study = head.run(
            *("python", "-m", "dim_ray.tune", "--storage", str(storage), *arguments),
            environment=[*ENVIRONMENT, "RAY_ADDRESS=auto"],
            seconds=500,
        )
    log = "".join(file.read_text() for file in storage.glob("studies/*/study.log"))
    assert study.returncode == 0, f"{study.stderr}\n{log}"
    assert "the cluster starts nodes as they are needed" in study.stderr
    assert "max_concurrent=2" in log
    assert trials(storage)["state"].tolist() == ["completed"] * 2
    assert len(evaluations(storage))


def test_room_is_asked_for_where_nobody_says_what_may_start(tmp_path: Path) -> None:
    with head_alone(tmp_path, "/root/elsewhere.yaml") as (head, _):
        joined = head.run("python", "-c", JOIN, environment=[*ENVIRONMENT, "RAY_ADDRESS=auto"], seconds=400)
    assert joined.returncode == 0, joined.stderr
    said, *_, room = joined.stderr.splitlines()
    assert said == "no room for a trial on 1 node; asking for more, up to 300 s"
    assert room == "room for 1"
