from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private import services

from dim_ray.config import Config
from dim_ray.distributed.cluster.joining import cluster, joins_a_cluster
from dim_ray.errors import DimError, ResourceError
from dim_ray.progress import SilentProgress
from tests.helpers.ray_nodes import nodes, run_command


@pytest.fixture(params=[None, "", "local", "127.0.0.1:6379"])
def address(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | None:
    if request.param is None:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    else:
        monkeypatch.setenv("RAY_ADDRESS", request.param)
    value: str | None = request.param
    return value


def test_cluster_is_joined_where_its_address_is_set(address: str | None) -> None:
    assert joins_a_cluster() is (address == "127.0.0.1:6379")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no.such.host.invalid:6379", "127.0.0.1:99999"])
def test_address_where_nobody_listens_is_refused_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    message = rf"is '{re.escape(address)}', and no Ray cluster answers there \(.*\); start one"
    with pytest.raises(ResourceError, match=message), cluster(Config(), SilentProgress()):
        pytest.fail("it was joined")


@pytest.mark.ray
@pytest.mark.slow
def test_missing_cluster_of_this_machine_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))  # where Ray notes what runs
    monkeypatch.setattr(
        services, "find_gcs_addresses", functools.cache(set)
    )  # among all processes, such as those of other tests
    with (
        pytest.raises(ResourceError, match="is 'auto', and no Ray cluster answers"),
        cluster(Config(), SilentProgress()),
    ):
        pytest.fail("there is one")


def test_ray_that_does_not_come_up_in_time_gives_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def time_out(**options: Any) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", time_out)
    with pytest.raises(DimError, match=r"Ray didn't start .*timed out"), cluster(Config(), SilentProgress()):
        pytest.fail("it is up")


def test_defect_at_the_start_of_ray_keeps_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", lambda **options: 1 / 0)
    with pytest.raises(ZeroDivisionError), cluster(Config(), SilentProgress()):
        pytest.fail("it is up")


JOIN = """
from dim_ray.config import Config, StudyConfig
from dim_ray.distributed.cluster.joining import cluster
from dim_ray.errors import ResourceError
from dim_ray.progress import SilentProgress

for study in (StudyConfig(cpus_per_worker=3), StudyConfig(cpus_per_worker=2)):
    try:
        with cluster(Config(study=study), SilentProgress()) as placement:
            pass  # its output is Ray's
        print(placement.max_concurrent)
    except ResourceError as error:
        print(error)
"""


@pytest.mark.ray
@pytest.mark.slow
def test_worker_that_none_of_two_nodes_can_hold_is_refused_when_they_are_joined(tmp_path: Path) -> None:
    with nodes({}, {}, num_cpus=2) as address:
        joined = run_command(address, ["-c", JOIN], cwd=tmp_path)
    assert "there is room for 0 on 2 nodes, the largest with 2 CPUs" in joined.stdout, joined.stderr
    assert joined.stdout.splitlines()[1:] == ["2"], joined.stderr
