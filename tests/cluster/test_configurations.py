from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from googleapiclient.discovery_cache import get_static_doc

from tests.helpers.cluster_files import FOLDER, LAUNCHED, ROOT, head_port, load, prepared

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
        own = [command for command in commands if command != "chmod 600 ~/.ray/auth_token"]
        assert own
        assert all(re.match(r"bash ~/dim-ray/cluster/setup_node\.sh ", command) for command in own)
        assert len(commands) == len(set(commands)) >= 1
    (head,), (worker,) = config["head_start_ray_commands"], config["worker_start_ray_commands"]
    assert "bash ~/dim-ray/cluster/start_node.sh ray start --head " in head
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    assert worker == "bash ~/dim-ray/cluster/start_node.sh ray start --address=$RAY_HEAD_IP"


def test_python_of_the_nodes_is_that_of_the_lock() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (version,) = re.findall(r"--python-version ([\d.]+)", makefile)
    for name in ("setup_node.sh", "Dockerfile", "gcp.yaml"):
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
def test_head_gets_no_work_and_the_autoscaler_knows_what_a_worker_has(name: str) -> None:
    types = prepared(load(name))["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0, "GPU": 0}
    assert {"CPU": 8, "GPU": 1}.items() <= types["gpu"]["resources"].items()
    assert types["gpu"]["min_workers"] == 0


def test_type_of_instances_on_aws_is_changed_in_one_place() -> None:
    config = load("cluster.yaml")
    config["available_node_types"]["gpu"]["node_config"]["InstanceType"] = "g6.48xlarge"
    assert {"CPU": 192, "GPU": 8}.items() <= prepared(config)["available_node_types"]["gpu"]["resources"].items()


def test_both_clouds_share_all_but_what_is_theirs() -> None:
    shared = [
        LAUNCHED[name].read_text().partition("# The same in cluster.yaml and cluster/gcp.yaml")[2]
        for name in AUTOSCALED
    ]
    assert shared[0] == shared[1]
    assert "worker_start_ray_commands" in shared[0]


def test_nodes_of_google_cloud_are_described_in_its_words() -> None:
    schemas = json.loads(get_static_doc("compute", "v1"))["schemas"]
    for node in load("gcp.yaml")["available_node_types"].values():
        jsonschema.validate(node["node_config"], {"$ref": "#/schemas/Instance", "schemas": closed(schemas)})
    wrong = {"scheduling": [{"provisioningModel": "SPOT"}]}
    with pytest.raises(jsonschema.ValidationError, match="is not of type 'object'"):
        jsonschema.validate(wrong, {"$ref": "#/schemas/Instance", "schemas": closed(schemas)})


def closed(schemas: dict[str, Any]) -> dict[str, Any]:
    """Returns schemas that refuse keys that they don't know, with references as JSON Schema has them."""
    text = re.sub(r'"\$ref": "(\w+)"', r'"$ref": "#/schemas/\1"', json.dumps(schemas))
    return {name: {"additionalProperties": False, **schema} for name, schema in json.loads(text).items()}


def test_ray_opens_no_port_on_aws() -> None:
    config = prepared(load("cluster.yaml"))
    for node in config["available_node_types"].values():
        # Where Ray makes a group, it opens SSH to the world.
        assert node["node_config"]["SecurityGroupIds"] == config["metadata"]["security_groups"]
        assert node["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}
