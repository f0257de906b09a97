"""The cluster configurations of the checkout, as Ray reads them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster"
LAUNCHED = {path.name: path for path in (ROOT / "cluster.yaml", FOLDER / "on_prem.yaml", FOLDER / "gcp.yaml")}
"""Those for `ray up`, by name."""


def load(name: str) -> dict[str, Any]:
    """Returns a configuration as it was written."""
    return dict(yaml.safe_load(LAUNCHED[name].read_text()))


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a configuration as `ray up` completes it.

    Raises:
        jsonschema.ValidationError: It isn't one.
    """
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(config)
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
