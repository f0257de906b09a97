"""Makes what cluster.yaml needs once in an AWS account: a private bucket, two roles, a security group, and Ray's token.

    python cluster/prepare_aws.py --bucket my-dim-results

Ray would make roles that may do anything with EC2 and S3, and a security group that lets the whole world try SSH; these
may do what aws_policy.json and aws_head_policy.json say in the region, with the cluster's name and its instance types,
and SSH is open to the address that this command is called from. Given again, it puts right what differs, such as your
address, and takes nothing from others: not another bucket's, cluster's or user's access. Only what the bucket holds
costs something; what was overwritten or deleted there can be brought back for 30 days.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import urllib.request
from pathlib import Path
from typing import Any

import boto3
import yaml
from botocore.exceptions import BotoCoreError, ClientError

from dim_ray.distributed.cluster.own_ray import stored_token

__all__ = ["main"]

_FOLDER = Path(__file__).parent
_SSH_PORT = 22
_OWN_ADDRESS = "https://checkip.amazonaws.com"
_KEPT_DAYS = 30
_TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"},
    ],
}


def main(arguments: list[str] | None = None) -> None:
    """Make it all, and print what goes into cluster.yaml."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bucket", required=True, help="of the results; it's made where there is none")
    parser.add_argument("--cluster", default=_FOLDER.parent / "cluster.yaml", help="default: cluster.yaml")
    parser.add_argument(
        "--ssh-from", help="range of addresses that may use SSH, such as 192.0.2.0/24; yours by default"
    )
    given = parser.parse_args(arguments)
    try:
        config = yaml.safe_load(Path(given.cluster).read_text(encoding="utf-8"))
        region, cluster = config["provider"]["region"], config["cluster_name"]
        nodes = {name: node["node_config"] for name, node in config["available_node_types"].items()}
        head = nodes.pop(config["head_node_type"])["IamInstanceProfile"]["Name"]
        (worker,) = {node["IamInstanceProfile"]["Name"] for node in nodes.values()}
        types = sorted({node["InstanceType"] for node in nodes.values()})
        ssh_from = str(ipaddress.ip_network(given.ssh_from)) if given.ssh_from else f"{_own_address()}/32"
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError) as error:
        parser.error(f"--cluster {given.cluster} or --ssh-from {given.ssh_from} can't be used: {error!r}")
    try:
        stored_token()
        _make_bucket(region, given.bucket)
        iam = boto3.client("iam", region_name=region)
        for role, deletable in ((head, "*"), (worker, "*/studies/*")):
            _make_role(iam, role)
            _allow(iam, role, f"bucket-{given.bucket}", "aws_policy.json", BUCKET=given.bucket, DELETABLE=deletable)
        names = {"REGION": region, "CLUSTER": cluster, "WORKER_ROLE": worker, "INSTANCE_TYPES": types}
        _allow(iam, head, f"cluster-{cluster}-{region}", "aws_head_policy.json", **names)
        group = _make_group(region, cluster, ssh_from)
    except (BotoCoreError, ClientError) as error:
        raise SystemExit(f"error: AWS refuses: {error}") from error
    print(f"SSH is open to {ssh_from}. In {given.cluster}:\n\n  security_groups: &security_groups [{group}]\n")
    print(f"and --storage s3://{given.bucket}/dim_storage with every command.")


def _own_address() -> str:
    with urllib.request.urlopen(_OWN_ADDRESS, timeout=10) as answer:
        return str(ipaddress.IPv4Address(answer.read().decode().strip()))


def _make_bucket(region: str, bucket: str) -> None:
    s3 = boto3.client("s3", region_name=region)
    # The first region is the one that must not be named.
    where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    _unless(("BucketAlreadyOwnedByYou",), s3.create_bucket, Bucket=bucket, **where)
    closed = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=dict.fromkeys(closed, True))
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    try:
        s3.get_bucket_lifecycle_configuration(Bucket=bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchLifecycleConfiguration":
            raise
        rule = {
            "ID": "dim-ray",
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "NoncurrentVersionExpiration": {"NoncurrentDays": _KEPT_DAYS},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": _KEPT_DAYS},
        }
        s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [rule]})


def _make_role(iam: Any, role: str) -> None:
    exists = ("EntityAlreadyExists",)
    _unless(exists, iam.create_role, RoleName=role, AssumeRolePolicyDocument=json.dumps(_TRUST))
    _unless(exists, iam.create_instance_profile, InstanceProfileName=role)
    # The limit is one role.
    _unless(("LimitExceeded",), iam.add_role_to_instance_profile, InstanceProfileName=role, RoleName=role)


def _allow(iam: Any, role: str, policy: str, file: str, **names: str | list[str]) -> None:
    """Give a role what a file says. Policies of other names, such as another bucket's, stay."""
    document = (_FOLDER / file).read_text(encoding="utf-8")
    for name, value in names.items():
        document = document.replace(f'"{name}"', json.dumps(value))
        if isinstance(value, str):
            document = document.replace(name, value)
    iam.put_role_policy(RoleName=role, PolicyName=policy, PolicyDocument=document)


def _make_group(region: str, name: str, ssh_from: str) -> str:
    """Return the id of a group whose members reach each other, and which each user reaches by SSH from one range."""
    ec2 = boto3.client("ec2", region_name=region)
    vpcs = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    if not vpcs:
        raise SystemExit(
            f"error: {region} has no default VPC; `aws ec2 create-default-vpc --region {region}` makes one."
        )
    vpc = vpcs[0]["VpcId"]
    wanted = [{"Name": "vpc-id", "Values": [vpc]}, {"Name": "group-name", "Values": [name]}]
    found = ec2.describe_security_groups(Filters=wanted)["SecurityGroups"]
    if found:
        group = str(found[0]["GroupId"])
    else:
        description = "Nodes of DiM on Ray: SSH from one place per user, and nothing else from outside"
        group = str(ec2.create_security_group(GroupName=name, Description=description, VpcId=vpc)["GroupId"])
    user = str(boto3.client("sts", region_name=region).get_caller_identity()["Arn"])
    ssh = {"IpProtocol": "tcp", "FromPort": _SSH_PORT, "ToPort": _SSH_PORT}
    ranges = [place for rule in found[0]["IpPermissions"] for place in rule["IpRanges"]] if found else []
    if mine := [place for place in ranges if place.get("Description") == user and place["CidrIp"] != ssh_from]:
        ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[{**ssh, "IpRanges": mine}])
    among_them = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
    for rule in ({**ssh, "IpRanges": [{"CidrIp": ssh_from, "Description": user}]}, among_them):
        exists = ("InvalidPermission.Duplicate",)
        _unless(exists, ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=[rule])
    return group


def _unless(codes: tuple[str, ...], call: Any, **arguments: Any) -> None:
    """Call AWS, and take some refusals as a sign that it's done already."""
    try:
        call(**arguments)
    except ClientError as error:
        if error.response["Error"]["Code"] not in codes:
            raise


if __name__ == "__main__":
    main()
