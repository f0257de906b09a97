"""Makes what cluster.yaml needs once in an AWS account: a private bucket, two roles and a security group.

    python cluster/prepare_aws.py --region us-west-2 --bucket my-dim-results

Ray would make roles that may do anything with EC2 and S3, and a security group that lets the whole world try SSH; these
may do what aws_policy.json and aws_head_policy.json say, and SSH is open to the address that this command is called
from. Given again, it puts right what differs, such as another address. Nothing of it costs anything but what the bucket
holds.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import urllib.request
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError

__all__ = ["main"]

_FOLDER = Path(__file__).parent
_ROLES = {"dim-ray-head": ("aws_policy.json", "aws_head_policy.json"), "dim-ray-worker": ("aws_policy.json",)}
_GROUP = "dim-ray"
_SSH_PORT = 22
_OWN_ADDRESS = "https://checkip.amazonaws.com"
_TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"},
    ],
}


def main(arguments: list[str] | None = None) -> None:
    """Make it all, and print what goes into cluster.yaml."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--region", required=True, help="as in cluster.yaml")
    parser.add_argument("--bucket", required=True, help="of the results; it's made where there is none")
    parser.add_argument(
        "--ssh-from", help="range of addresses that may use SSH, such as 192.0.2.0/24; yours by default"
    )
    given = parser.parse_args(arguments)
    ssh_from = str(ipaddress.ip_network(given.ssh_from)) if given.ssh_from else f"{_own_address()}/32"
    _make_bucket(given.region, given.bucket)
    for role, policies in _ROLES.items():
        _make_role(given.region, role, policies, given.bucket)
    group = _make_group(given.region, ssh_from)
    print(f"SSH is open to {ssh_from}. In cluster.yaml:\n")
    print(f"  region: {given.region}")
    print(f"  security_groups: &security_groups [{group}]\n")
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


def _make_role(region: str, role: str, policies: tuple[str, ...], bucket: str) -> None:
    iam = boto3.client("iam", region_name=region)
    exists = ("EntityAlreadyExists",)
    _unless(exists, iam.create_role, RoleName=role, AssumeRolePolicyDocument=json.dumps(_TRUST))
    for policy in policies:
        document = (_FOLDER / policy).read_text(encoding="utf-8").replace("BUCKET", bucket)
        iam.put_role_policy(RoleName=role, PolicyName=Path(policy).stem, PolicyDocument=document)
    _unless(exists, iam.create_instance_profile, InstanceProfileName=role)
    # The limit is one role.
    _unless(("LimitExceeded",), iam.add_role_to_instance_profile, InstanceProfileName=role, RoleName=role)


def _make_group(region: str, ssh_from: str) -> str:
    """Return the id of a group whose members reach each other, and which one range of addresses reaches by SSH."""
    ec2 = boto3.client("ec2", region_name=region)
    vpcs = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    if not vpcs:
        raise SystemExit(
            f"error: {region} has no default VPC; `aws ec2 create-default-vpc --region {region}` makes one."
        )
    vpc = vpcs[0]["VpcId"]
    wanted = [{"Name": "vpc-id", "Values": [vpc]}, {"Name": "group-name", "Values": [_GROUP]}]
    found = ec2.describe_security_groups(Filters=wanted)["SecurityGroups"]
    if found:
        group = str(found[0]["GroupId"])
        if found[0]["IpPermissions"]:
            ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=found[0]["IpPermissions"])
    else:
        description = "Nodes of DiM on Ray: SSH from one place, and nothing else from outside"
        group = str(ec2.create_security_group(GroupName=_GROUP, Description=description, VpcId=vpc)["GroupId"])
    ssh = {"IpProtocol": "tcp", "FromPort": _SSH_PORT, "ToPort": _SSH_PORT, "IpRanges": [{"CidrIp": ssh_from}]}
    among_them = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[ssh, among_them])
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
