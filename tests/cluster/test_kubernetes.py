from __future__ import annotations

import copy
import json
import re
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay.node_provider import KubernetesHttpApiClient
from requests import HTTPError

from dim_ray.config import StudyConfig
from dim_ray.distributed.cluster.autoscaler import first_nodes, make_config_reader, possible_growth
from dim_ray.distributed.cluster.placement import HEAD, plan_placement
from tests.helpers.cluster_files import FOLDER, locked
from tests.helpers.ray_nodes import nodes, run_command

STUDY, CLUSTER, *JOBS = (
    item
    for name in ("kuberay.yaml", "kuberay_cluster.yaml")
    for item in yaml.safe_load_all((FOLDER / name).read_text())
)
SPEC = CLUSTER["spec"]
PODS = {
    "head": SPEC["headGroupSpec"]["template"]["spec"],
    **{group["groupName"]: group["template"]["spec"] for group in SPEC["workerGroupSpecs"]},
}
ABSENT = object()


def broken_rules(item: dict[str, Any]) -> list[str]:
    """Returns the rules of KubeRay's operator and webhooks that an object breaks, of those that ours come near."""
    name, spec = item["metadata"]["name"], item["spec"]
    is_job = item["kind"] == "RayJob"
    cluster = spec.get("rayClusterSpec", {}) if is_job else spec
    selector, retries = spec.get("clusterSelector", {}), spec.get("backoffLimit", 0)
    head, workers = cluster.get("headGroupSpec", {}), cluster.get("workerGroupSpecs", [])
    groups = [head, *workers] if cluster else []
    pods = [group["template"]["spec"] for group in groups]
    variables = {variable["name"] for pod in pods[:1] for variable in (pod["containers"] or [{}])[0].get("env", [])}
    options = cluster.get("autoscalerOptions", {})
    scales, is_v2 = cluster.get("enableInTreeAutoscaling", False), options.get("version") == "v2"
    version = tuple(map(int, re.findall(r"\d+", cluster.get("rayVersion", "0"))))
    amounts = {"num-cpus", "num-gpus", "memory", "resources"}
    rules = {
        "a name is a DNS label, of 47 letters at most for a job and 53 for a cluster": (
            len(name) > (47 if is_job else 53) or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
        ),
        "a job brings a cluster or selects one": is_job and not selector and not cluster,
        "a selected cluster is named": bool(selector) and not selector.get("ray.io/cluster"),
        "a job on a selected cluster isn't tried again": bool(selector) and retries > 0,
        "a job on a selected cluster has no submitter beside the head": (
            bool(selector) and spec.get("submissionMode") == "SidecarMode"
        ),
        "an interactive job isn't tried again": spec.get("submissionMode") == "InteractiveMode" and retries > 0,
        "a job isn't tried less than once": retries < 0,
        "a time limit is positive": spec.get("activeDeadlineSeconds", 1) <= 0,
        "only a cluster that goes with its job has a time to live": (
            not spec.get("shutdownAfterJobFinishes") and spec.get("ttlSecondsAfterFinished", 0) > 0
        ),
        "only a job whose cluster goes with it is suspended": (
            spec.get("suspend", False) and not spec.get("shutdownAfterJobFinishes")
        ),
        "a pod has a container": any(not pod["containers"] for pod in pods),
        "groups of workers have different names": len({group["groupName"] for group in workers}) < len(workers),
        "resources are said in one place": any(
            group.get("resources") and amounts & set(group["rayStartParams"]) for group in groups
        ),
        "labels aren't parameters of `ray start`": any("labels" in group["rayStartParams"] for group in groups),
        "limits of a group are in order": any(
            not 0 <= group.get("minReplicas", 0) <= group.get("maxReplicas", 10**9) for group in workers
        ),
        "autoscaler v2 has pods that aren't started again": scales
        and is_v2
        and any(pod.get("restartPolicy", "Never") != "Never" for pod in pods),
        "no group is suspended": any(group.get("suspend") for group in workers),
        "idle seconds aren't negative": options.get("idleTimeoutSeconds", 0) < 0,
        "the autoscaler's version is said in one place": (
            scales and "version" in options and "RAY_enable_autoscaler_v2" in variables
        ),
        "a token needs Ray 2.52": cluster.get("authOptions", {}).get("mode") == "token" and version < (2, 52),
    }
    return [rule for rule, is_broken in rules.items() if is_broken]


# An object of ours, a place in it, what is put there, and the rule that this breaks.
GROUP = "spec/rayClusterSpec/workerGroupSpecs/0"
POD = f"{GROUP}/template/spec"
HEAD_GROUP = "spec/rayClusterSpec/headGroupSpec"
CASES: list[tuple[dict[str, Any], str, Any, str]] = [
    (STUDY, "metadata/name", "a" * 48, "a name is a DNS label"),
    (CLUSTER, "metadata/name", "1-cluster", "a name is a DNS label"),
    (STUDY, "spec/rayClusterSpec", ABSENT, "a job brings a cluster or selects one"),
    (JOBS[0], "spec/clusterSelector", {"name": "dim-ray"}, "a selected cluster is named"),
    (JOBS[0], "spec/backoffLimit", 2, "a job on a selected cluster isn't tried again"),
    (JOBS[0], "spec/submissionMode", "SidecarMode", "a job on a selected cluster has no submitter"),
    (STUDY, "spec/submissionMode", "InteractiveMode", "an interactive job isn't tried again"),
    (STUDY, "spec/backoffLimit", -1, "a job isn't tried less than once"),
    (STUDY, "spec/activeDeadlineSeconds", 0, "a time limit is positive"),
    (JOBS[0], "spec/ttlSecondsAfterFinished", 60, "only a cluster that goes with its job has a time to live"),
    (JOBS[0], "spec/suspend", True, "only a job whose cluster goes with it is suspended"),
    (STUDY, f"{HEAD_GROUP}/template/spec/containers", [], "a pod has a container"),
    (STUDY, f"{POD}/containers", [], "a pod has a container"),
    (CLUSTER, "spec/workerGroupSpecs", CLUSTER["spec"]["workerGroupSpecs"] * 2, "groups of workers have different"),
    (STUDY, f"{HEAD_GROUP}/resources", {"CPU": "0"}, "resources are said in one place"),
    (STUDY, f"{GROUP}/rayStartParams/labels", "market=spot", "labels aren't parameters"),
    (STUDY, f"{GROUP}/minReplicas", 5, "limits of a group are in order"),
    (STUDY, f"{GROUP}/maxReplicas", -1, "limits of a group are in order"),
    (STUDY, f"{HEAD_GROUP}/template/spec/restartPolicy", "Always", "autoscaler v2 has pods that aren't started again"),
    (STUDY, f"{POD}/restartPolicy", "OnFailure", "autoscaler v2 has pods that aren't started again"),
    (STUDY, f"{GROUP}/suspend", True, "no group is suspended"),
    (STUDY, "spec/rayClusterSpec/autoscalerOptions/idleTimeoutSeconds", -1, "idle seconds aren't negative"),
    (
        STUDY,
        f"{HEAD_GROUP}/template/spec/containers/0/env",
        [{"name": "RAY_enable_autoscaler_v2", "value": "1"}],
        "the autoscaler's version is said in one place",
    ),
    (STUDY, "spec/rayClusterSpec/rayVersion", ABSENT, "a token needs Ray 2.52"),
    (CLUSTER, "spec/rayVersion", "2.51.1", "a token needs Ray 2.52"),
]


def changed(item: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """Returns a copy of an object with another value at a place."""
    item = copy.deepcopy(item)
    *path, key = (int(part) if part.isdecimal() else part for part in place.split("/"))
    at: Any = item
    for part in path:
        at = at[part]
    at.pop(key) if value is ABSENT else at.__setitem__(key, value)
    return item


@pytest.mark.parametrize("item", [STUDY, CLUSTER, *JOBS], ids=lambda item: item["metadata"]["name"])
def test_object_breaks_no_rule_of_kuberay(item: dict[str, Any]) -> None:
    assert broken_rules(item) == []


@pytest.mark.parametrize(("item", "place", "value", "rule"), CASES, ids=lambda part: part if str(part) == part else "")
def test_change_that_kuberay_refuses_breaks_a_rule(item: dict[str, Any], place: str, value: Any, rule: str) -> None:
    (found,) = broken_rules(changed(item, place, value))
    assert found.startswith(rule)


def test_jobs_run_on_the_cluster_beside_them_and_a_study_brings_the_same() -> None:
    assert (STUDY["kind"], CLUSTER["kind"], {job["kind"] for job in JOBS}) == ("RayJob", "RayCluster", {"RayJob"})
    assert STUDY["spec"]["rayClusterSpec"] == CLUSTER["spec"]
    assert STUDY["spec"]["shutdownAfterJobFinishes"]
    for job in JOBS:
        assert job["spec"]["clusterSelector"] == {"ray.io/cluster": CLUSTER["metadata"]["name"]}
    for job in (STUDY, *JOBS):
        assert job["spec"]["entrypoint"].startswith("python -m dim_ray.tune --dataset ")


def test_cluster_has_the_locked_ray_and_is_closed() -> None:
    assert SPEC["rayVersion"] == locked("ray")
    assert SPEC["authOptions"] == {"mode": "token"}
    assert SPEC["headGroupSpec"]["serviceType"] == "ClusterIP"


@pytest.mark.parametrize("name", PODS)
def test_pods_have_one_container_of_the_image_with_what_they_ask_for_as_their_limit(name: str) -> None:
    (container,) = PODS[name]["containers"]
    assert container["image"] == "REGISTRY/dim-ray"
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (name != "head")
    volumes = {volume["name"] for volume in PODS[name].get("volumes", [])}
    assert {mount["name"] for mount in container.get("volumeMounts", [])} == volumes


ANSWER = {"metadata": {"name": "dim-ray", "namespace": "here"}, "spec": SPEC}
"""What Kubernetes says of the cluster."""


def test_kuberay_says_which_nodes_may_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ray's own autoscaler reads it."""
    answers = {"rayclusters/dim-ray": ANSWER}
    monkeypatch.setattr(KubernetesHttpApiClient, "get", lambda self, path: answers[path])
    monkeypatch.setenv("RAY_CLUSTER_NAME", "dim-ray")
    monkeypatch.setenv("RAY_CLUSTER_NAMESPACE", "here")
    config = make_config_reader()()
    assert config is not None
    assert first_nodes(config) == 1
    head = {HEAD: 1.0}
    placement = plan_placement(StudyConfig(cpus_per_worker=7), [head], possible_growth(config, [head]))
    assert (placement.max_concurrent, placement.device_type) == (4, "cuda")


@pytest.mark.parametrize(
    "answer",
    [
        HTTPError("403 Client Error: Forbidden"),
        {**ANSWER, "spec": {**SPEC, "enableInTreeAutoscaling": False}},
        changed(ANSWER, "spec/workerGroupSpecs/0/maxReplicas", ABSENT),
    ],
    ids=["no role", "no autoscaler", "no limit"],
)
def test_where_kuberay_says_nothing_of_growth_nothing_is_known(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def get(self: object, path: str) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(KubernetesHttpApiClient, "get", get)
    monkeypatch.setenv("RAY_CLUSTER_NAME", "dim-ray")
    monkeypatch.setenv("RAY_CLUSTER_NAMESPACE", "here")
    assert make_config_reader()() is None


JOIN = """
from dim_ray.config import Config
from dim_ray.distributed.cluster.joining import cluster
from dim_ray.progress import SilentProgress

with cluster(Config(), SilentProgress()) as placement:
    pass  # its output is Ray's
print(placement.max_concurrent, placement.device_type)
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
def test_study_on_a_cluster_scaled_to_none_is_placed(tmp_path: Path) -> None:
    """Only the head's process is told where Kubernetes is, and has what lets it in."""
    with kubernetes(tmp_path) as environment, nodes(environment, num_cpus=0) as address:
        joined = run_command(address, ["-c", JOIN], cwd=tmp_path)
    assert joined.stdout.splitlines() == ["4 cuda"], joined.stderr


@contextmanager
def kubernetes(folder: Path) -> Iterator[dict[str, str]]:
    """Yields the environment of a pod whose API server has nothing but the cluster."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/apis/ray.io/v1/namespaces/here/rayclusters/dim-ray"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(json.dumps(ANSWER).encode())

    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    made = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, *subject)
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {
            "RAY_CLUSTER_NAME": "dim-ray",
            "RAY_CLUSTER_NAMESPACE": "here",
            "KUBERNETES_SERVICE_HOST": "localhost",
            "KUBERNETES_SERVICE_PORT_HTTPS": str(server.server_port),
            "RAY_KUBERAY_CLIENT_CERT_PATH": str(certificate),
            "RAY_KUBERAY_CLIENT_KEY_PATH": str(key),
            "RAY_KUBERAY_CA_CERT_PATH": str(certificate),
        }
        server.shutdown()
