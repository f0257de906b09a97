from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from dim_ray.config import StudyConfig
from dim_ray.distributed.cluster.placement import plan_placement
from tests.helpers.cluster_files import FOLDER, ROOT, locked

OBJECTS = {item["kind"]: item for item in yaml.safe_load_all((FOLDER / "kuberay.yaml").read_text())}
# Keys that KubeRay's definitions have, of what is used here.
KNOWN = {
    "RayCluster": {
        "rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"
    },
    "RayJob": {"clusterSelector", "submissionMode", "backoffLimit", "entrypoint"},
}  # fmt: skip


def pods() -> dict[str, Any]:
    """Returns the specifications of the pods, by what they are."""
    spec = OBJECTS["RayCluster"]["spec"]
    workers = {group["groupName"]: group["template"]["spec"] for group in spec["workerGroupSpecs"]}
    return {"head": spec["headGroupSpec"]["template"]["spec"], **workers}


def test_there_is_a_cluster_and_a_job_that_runs_on_it() -> None:
    assert set(OBJECTS) == {"RayCluster", "RayJob"}
    for kind, item in OBJECTS.items():
        assert item["apiVersion"] == "ray.io/v1"
        assert set(item["spec"]) == KNOWN[kind]
    selected = OBJECTS["RayJob"]["spec"]["clusterSelector"]
    assert selected == {"ray.io/cluster": OBJECTS["RayCluster"]["metadata"]["name"]}
    assert "python -m dim_ray.tune " in OBJECTS["RayJob"]["spec"]["entrypoint"]


def test_version_of_ray_is_that_of_the_lock() -> None:
    assert OBJECTS["RayCluster"]["spec"]["rayVersion"] == locked("ray")


def test_token_is_asked_for_and_the_head_is_not_reached_from_outside() -> None:
    spec = OBJECTS["RayCluster"]["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_all_workers_are_there_when_a_study_begins_and_the_head_trains_nothing() -> None:
    spec = OBJECTS["RayCluster"]["spec"]
    assert spec["enableInTreeAutoscaling"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in spec["workerGroupSpecs"]:
        assert 0 == group["minReplicas"] < group["replicas"] == group["maxReplicas"]


def test_a_study_finds_room_for_a_trial_on_every_worker() -> None:
    nodes = [{"CPU": 0.0, "GPU": 0.0}]
    for group in OBJECTS["RayCluster"]["spec"]["workerGroupSpecs"]:
        limit = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        nodes += group["replicas"] * [{"CPU": float(limit["cpu"]), "GPU": float(limit["nvidia.com/gpu"])}]
    assert plan_placement(StudyConfig(), nodes).max_concurrent == len(nodes) - 1


@pytest.mark.parametrize("name", pods())
def test_pods_have_one_container_of_the_image_with_what_they_ask_for_as_their_limit(name: str) -> None:
    (container,) = pods()[name]["containers"]
    assert container["image"] == "REGISTRY/dim-ray"
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (name != "head")
    volumes = {volume["name"] for volume in pods()[name].get("volumes", [])}
    assert {mount["name"] for mount in container.get("volumeMounts", [])} == volumes


def test_image_has_what_ray_up_sends_and_is_set_up_by_the_same_script() -> None:
    lines = re.sub(r"\\\n\s*", "", (FOLDER / "Dockerfile").read_text()).splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    assert [step for step, _ in steps] == ["FROM", "COPY", "COPY", "RUN", "COPY", "COPY"]
    copied = {}
    for step, rest in steps:
        if step == "COPY":
            owner, source, target = rest.split()
            assert owner == "--chown=ray:users"
            copied[source] = target
            assert (ROOT / source).exists()
    assert set(copied) == {"requirements.lock", "cluster", "dim_ray", "tuning"}
    assert "bash /home/ray/dim-ray/cluster/setup_node.sh /home/ray/dim-ray-environment" in steps[3][1]
