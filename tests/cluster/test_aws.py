"""cluster.yaml against a server that plays AWS."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.helpers.cluster_files import FOLDER, LAUNCHED, ROOT, load

ROLES = ("dim-ray-head", "dim-ray-worker")
BUCKET = "dim-results"
OWN = "192.0.2.7/32"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """An account with nothing in it but what a new one has."""
    with socket.socket() as any_socket:
        any_socket.bind(("127.0.0.1", 0))
        port = any_socket.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with (
        subprocess.Popen(
            [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        try:
            patch.setenv("AWS_ENDPOINT_URL", url)
            patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
            patch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
            patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # gets Ray's key
            until = time.monotonic() + 60
            while True:
                with suppress(OSError):
                    urllib.request.urlopen(f"{url}/moto-api/", timeout=5).close()
                    break
                assert server.poll() is None
                assert time.monotonic() < until
                time.sleep(0.1)
            yield patch
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def group(aws: pytest.MonkeyPatch) -> str:
    return prepare(OWN)


@pytest.fixture(scope="module")
def bootstrapped(group: str) -> dict[str, Any]:
    """The configuration as `ray up` resolves it, with what a user fills in."""
    from ray.autoscaler._private.providers import _get_node_provider_cls
    from ray.autoscaler._private.util import prepare_config

    config = load("cluster.yaml")
    for node in config["available_node_types"].values():
        node["node_config"]["SecurityGroupIds"] = [group]
        node["node_config"]["ImageId"] = "ami-12c6146b"  # the server resolves no parameters
    provider = _get_node_provider_cls(config["provider"])
    return dict(provider.bootstrap_config(provider.fillout_available_node_types_resources(prepare_config(config))))


def prepare(ssh_from: str, bucket: str = BUCKET, cluster: Path = LAUNCHED["cluster.yaml"]) -> str:
    """Runs prepare_aws.py; returns the security group that it says goes into cluster.yaml."""
    command = [sys.executable, str(FOLDER / "prepare_aws.py"), "--bucket", bucket, "--cluster", str(cluster)]
    done = subprocess.run(
        [*command, "--ssh-from", ssh_from],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if "&security_groups" in line)
    return line.split("[")[1].rstrip("]")


def client(name: str) -> Any:
    return boto3.client(name, region_name=load("cluster.yaml")["provider"]["region"])


def inbound(group: str) -> list[dict[str, Any]]:
    (found,) = client("ec2").describe_security_groups(GroupIds=[group])["SecurityGroups"]
    return list(found["IpPermissions"])


def open_to(group: str) -> list[str]:
    return sorted(at["CidrIp"] for rule in inbound(group) for at in rule["IpRanges"])


def test_what_the_account_needs_can_be_made_again_and_ssh_is_open_to_one_place(group: str) -> None:
    assert prepare("192.0.2.8/32") == group
    assert prepare(OWN) == group
    assert open_to(group) == [OWN]
    assert {rule.get("FromPort") for rule in inbound(group) if rule["IpRanges"]} == {22}
    assert [pair["GroupId"] for rule in inbound(group) for pair in rule["UserIdGroupPairs"]] == [group]
    s3 = client("s3")
    blocked = s3.get_public_access_block(Bucket=BUCKET)["PublicAccessBlockConfiguration"]
    assert list(blocked.values()) == [True] * 4
    assert s3.get_bucket_versioning(Bucket=BUCKET)["Status"] == "Enabled"
    [rule] = s3.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]
    assert rule["NoncurrentVersionExpiration"] == {"NoncurrentDays": 30}
    token = Path(os.environ["HOME"], ".ray", "auth_token")
    assert (len(token.read_text()), token.stat().st_mode & 0o777) == (64, 0o600)


def test_second_user_bucket_and_cluster_take_nothing_from_the_first(group: str, tmp_path: Path) -> None:
    theirs = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "198.51.100.1/32"}]}
    client("ec2").authorize_security_group_ingress(GroupId=group, IpPermissions=[theirs])
    before = {role: policies(role) for role in ROLES}
    second = tmp_path / "second.yaml"
    second.write_text(
        LAUNCHED["cluster.yaml"].read_text().replace("cluster_name: dim-ray", "cluster_name: b").replace("g6.2", "g5.2")
    )
    assert prepare("192.0.2.9/32", "dim-others") == group
    assert prepare("192.0.2.9/32", "dim-others", second) != group
    assert open_to(group) == ["192.0.2.9/32", "198.51.100.1/32"]
    for role, documents in before.items():
        after = policies(role)
        assert {name: after[name] for name in documents} == documents
        assert f"bucket-{BUCKET}" in documents
        assert "bucket-dim-others" in after
    for role in ROLES:
        client("iam").delete_role_policy(RoleName=role, PolicyName="bucket-dim-others")
    client("iam").delete_role_policy(RoleName="dim-ray-head", PolicyName="cluster-b-us-west-2")
    client("ec2").revoke_security_group_ingress(GroupId=group, IpPermissions=[theirs])
    prepare(OWN)


def policies(role: str) -> dict[str, Any]:
    """Returns a role's policies, by name."""
    iam = client("iam")
    names = iam.list_role_policies(RoleName=role)["PolicyNames"]
    return {name: iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"] for name in names}


def test_roles_may_do_what_the_policies_say_and_workers_delete_no_results(group: str) -> None:
    may = {
        role: {
            (action, resource)
            for document in policies(role).values()
            for statement in document["Statement"]
            for action in as_list(statement["Action"])
            for resource in as_list(statement["Resource"])
        }
        for role in ROLES
    }
    bucket = f"arn:aws:s3:::{BUCKET}"
    assert {resource for _, resource in may["dim-ray-worker"]} == {bucket, f"{bucket}/*", f"{bucket}/*/studies/*"}
    deletions = {resource for action, resource in may["dim-ray-worker"] if "Delete" in action}
    assert deletions == {f"{bucket}/*/studies/*"}
    assert may["dim-ray-worker"] - {("s3:DeleteObject", f"{bucket}/*/studies/*")} < may["dim-ray-head"]
    assert not any("*" in action for action, _ in may["dim-ray-head"])
    assert not re.search("BUCKET|REGION|CLUSTER|ROLE|TYPES|DELETABLE", json.dumps(policies("dim-ray-head")))


def test_head_starts_only_workers_of_its_cluster_region_and_types(group: str, bootstrapped: dict[str, Any]) -> None:
    [document] = (value for name, value in policies("dim-ray-head").items() if name.startswith("cluster-"))
    statements = {statement["Sid"]: statement for statement in document["Statement"]}
    assert statements["StartWorkersOfThisCluster"]["Condition"]["StringEquals"] == {
        "aws:RequestTag/ray-cluster-name": bootstrapped["cluster_name"],
        "aws:RequestTag/ray-node-type": "worker",
        "ec2:InstanceType": [bootstrapped["available_node_types"]["gpu"]["node_config"]["InstanceType"]],
    }
    ended = statements["RenameAndEndNodesOfThisCluster"]["Condition"]["StringEquals"]
    assert ended == {"aws:ResourceTag/ray-cluster-name": bootstrapped["cluster_name"]}
    resources = [as_list(statement["Resource"]) for statement in statements.values()]
    regions = {resource.split(":")[3] for places in resources for resource in places if resource.count(":") > 4}
    assert regions == {"us-west-2", ""}  # roles have none


def as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def test_bootstrap_adds_a_key_and_subnets_and_touches_neither_roles_nor_ports(
    bootstrapped: dict[str, Any], group: str
) -> None:
    before = load("cluster.yaml")["available_node_types"]
    assert Path(bootstrapped["auth"]["ssh_private_key"]).stat().st_mode & 0o077 == 0
    for name, node in bootstrapped["available_node_types"].items():
        assert node["node_config"]["SubnetIds"]
        assert node["node_config"]["SecurityGroupIds"] == [group]
        assert node["node_config"]["IamInstanceProfile"] == before[name]["node_config"]["IamInstanceProfile"]
    assert "IamInstanceProfile" not in bootstrapped["head_node"]
    assert open_to(group) == [OWN]
    roles = {role["RoleName"] for role in client("iam").list_roles()["Roles"]}
    assert {name for name in roles if "ray" in name} == {"dim-ray-head", "dim-ray-worker"}


def test_autoscaler_is_told_the_gpus_that_the_instances_have(bootstrapped: dict[str, Any]) -> None:
    ec2 = client("ec2")
    for node in bootstrapped["available_node_types"].values():
        kind = node["node_config"]["InstanceType"]
        (described,) = ec2.describe_instance_types(InstanceTypes=[kind])["InstanceTypes"]
        gpus = sum(gpu["Count"] for gpu in described.get("GpuInfo", {}).get("Gpus", []))
        assert node["resources"]["GPU"] == gpus
        assert node["resources"]["CPU"] in (0, described["VCpuInfo"]["DefaultVCpus"])


@pytest.mark.parametrize(("kind", "is_refused"), [("head", False), ("gpu", False), ("gpu", True)])
def test_node_is_launched_and_ended(bootstrapped: dict[str, Any], kind: str, is_refused: bool) -> None:
    from ray.autoscaler._private.providers import _get_node_provider

    def refuse(params: dict[str, Any], **_: Any) -> None:
        if "InstanceMarketOptions" in params:
            error = {"Code": "InsufficientInstanceCapacity", "Message": "no spot capacity"}
            raise ClientError({"Error": error}, "RunInstances")

    provider = _get_node_provider(bootstrapped["provider"], bootstrapped["cluster_name"], use_cache=False)
    if is_refused:
        provider.ec2_fail_fast.meta.client.meta.events.register("before-parameter-build.ec2.RunInstances", refuse)
    tags = {"ray-node-type": "head" if kind == "head" else "worker", "ray-user-node-type": kind}
    config = bootstrapped["available_node_types"][kind]["node_config"]
    provider.create_node(config, {**tags, "ray-launch-config": "hash", "ray-node-name": kind}, 1)
    (node,) = provider.non_terminated_nodes({"ray-user-node-type": kind})
    (reservation,) = client("ec2").describe_instances(InstanceIds=[node])["Reservations"]
    (instance,) = reservation["Instances"]
    assert instance["InstanceType"] == config["InstanceType"]
    assert (instance.get("InstanceLifecycle") == "spot") == (kind == "gpu" and not is_refused)
    assert instance["IamInstanceProfile"]["Arn"].endswith(config["IamInstanceProfile"]["Name"])
    # What the head's policy asks of those that it starts and ends.
    assert {"Key": "ray-cluster-name", "Value": bootstrapped["cluster_name"]} in instance["Tags"]
    assert {"Key": "ray-node-type", "Value": tags["ray-node-type"]} in instance["Tags"]
    provider.terminate_nodes([node])
    assert provider.non_terminated_nodes({"ray-user-node-type": kind}) == []
