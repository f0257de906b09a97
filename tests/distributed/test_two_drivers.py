"""Two drivers on one cluster that build the same networks at the same moment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dim_ray.store.artifacts import ArtifactStore
from tests.helpers.builder import POOL_SIZE
from tests.helpers.ray_nodes import SECONDS, command_environment, nodes

NUM_NETWORKS = POOL_SIZE + 1
BUILD = "from tests.helpers.builder import main; main()"


@pytest.mark.ray
@pytest.mark.slow
def test_both_drivers_finish_and_the_store_holds_each_network_once(tmp_path: Path) -> None:
    with nodes({}, num_cpus=2 * NUM_NETWORKS) as address:
        drivers = [
            subprocess.Popen(
                [sys.executable, "-c", BUILD, str(tmp_path), *studies],
                env=command_environment(address),
                stderr=subprocess.PIPE,
                text=True,
            )
            for studies in (("digits", "mnist"), ("mnist", "digits"))
        ]
        try:
            for driver in drivers:
                _, errors = driver.communicate(timeout=SECONDS)
                assert driver.returncode == 0, errors
        finally:
            for driver in drivers:
                driver.kill()
                driver.communicate()
    trained = {path.name: {study.name for study in path.iterdir()} for path in (tmp_path / "trained").iterdir()}
    assert len(trained) == NUM_NETWORKS
    assert all(studies == {"digits", "mnist"} for studies in trained.values())
    stored = [path for kind in ("teachers", "priors") for path in (tmp_path / kind).iterdir()]
    assert {path.name for path in stored} == set(trained)
    for path in stored:
        ArtifactStore(str(tmp_path)).read(path.parent.name, path.name)  # verifies the digests
