"""The quickest scenarios that no other test covers; `python -m tests.faults` runs all of them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.scenarios import SCENARIOS
from tests.helpers.ray_cluster import RayCluster
from tests.helpers.ray_nodes import command_environment

AGAIN_SECONDS = 60.0
SECONDS = 600.0


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)  # a machine that is busy with other things
@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("node", ["teacher", "trial 0"]),
        ("reclaims", ["teacher"] * 3 + ["trial 0"] * 3),
        ("reclaims_of_two", ["trial 0"] * 3),
    ],
)
def test_study_continues_however_often_the_node_that_trains_is_lost(
    name: str, stages: list[str], tmp_path: Path
) -> None:
    harms = SCENARIOS[name](tmp_path)
    assert [harm.stage for harm in harms] == stages
    for harm in harms:
        assert harm.is_finished
        assert harm.again_seconds < AGAIN_SECONDS
        assert (harm.num_lost, harm.num_doubled) == (0, 0)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_pool_continues_with_the_remaining_workers_if_a_node_is_lost_for_good(tmp_path: Path) -> None:
    flags = {"--size": "4", "--workers": "2", "--pool.epochs": "60", "--storage.checkpoint_seconds": "3"}
    arguments = [word for flag, value in {**flags, "--storage": str(tmp_path)}.items() for word in (flag, value)]
    with RayCluster(num_nodes=2) as cluster:
        with subprocess.Popen(
            [sys.executable, "-m", "dim_ray.pool", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**command_environment(cluster.address), "OMP_NUM_THREADS": "1"},
        ) as pool:
            try:
                while not (before := teachers(tmp_path)):
                    assert pool.poll() is None, pool.communicate()
                    time.sleep(0.1)
                cluster.lose(cluster.find("ray::RayTrainWorker")[0][0])
                output, _ = pool.communicate(timeout=SECONDS)
            finally:
                pool.kill()
        assert pool.returncode == 0, output
        assert len(cluster.nodes) == 1
    after = teachers(tmp_path)
    assert len(after) == 4
    assert {path: after[path] for path in before} == before


def teachers(storage: Path) -> dict[Path, bytes]:
    """Return the cards of the stored teachers, by path."""
    return {path: path.read_bytes() for path in storage.glob("teachers/*/card.json")}
