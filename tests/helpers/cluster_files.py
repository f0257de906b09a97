"""The cluster configurations of the checkout, as Ray reads them."""

from __future__ import annotations

import gzip
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster"
LAUNCHED = {path.name: path for path in (ROOT / "cluster.yaml", FOLDER / "on_prem.yaml", FOLDER / "gcp.yaml")}
"""Those for `ray up`, by name."""


def load(name: str) -> dict[str, Any]:
    """Returns a configuration as it was written."""
    return dict(yaml.safe_load(LAUNCHED[name].read_text()))


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a configuration as `ray up` completes it, with the instance types of moto's AWS.

    Raises:
        jsonschema.ValidationError: It isn't one.
    """
    from ray.autoscaler._private.aws import node_provider
    from ray.autoscaler._private.providers import _get_node_provider_cls
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(config)
    packed = (files("moto") / "ec2/resources/instance_types.json.gz").read_bytes()
    types = list(json.loads(gzip.decompress(packed)).values())
    with patch.object(node_provider, "list_ec2_instances", lambda *_: types):
        config = _get_node_provider_cls(config["provider"]).fillout_available_node_types_resources(config)
    validate_config(config)
    return dict(config)


def locked(package: str) -> str:
    """Returns the version of a package in requirements.lock."""
    found = re.search(rf"^{re.escape(package)}==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert found, f"{package} isn't in requirements.lock"
    return found[1]


def head_port() -> int:
    """Returns the port of a cluster's head."""
    (port,) = re.findall(r"^port=(\d+)", (FOLDER / "start_node.sh").read_text(), re.MULTILINE)
    return int(port)
