from __future__ import annotations

import functools
import logging
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private import services
from ray._private.utils import check_version_info
from ray.exceptions import AuthenticationError

from dim_ray.cli.main import run_main
from dim_ray.config import Config
from dim_ray.distributed.cluster import machine
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


ERRORS = [
    RuntimeError("Timed out waiting for file gcs_server_port"),
    ValueError("Attempting to cap object store memory usage at 1 bytes."),
    OSError(28, "No space left on device"),
    TimeoutError(),
    KeyError("getpwuid(): uid not found: 12345"),
    AssertionError(),
    ConnectionError("The head is silent"),
    AuthenticationError("No token"),
    SystemExit(1),
]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_every_way_in_which_ray_fails_is_one_sentence_with_the_places_of_logs(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(_temp_dir: str, **options: Any) -> None:
        Path(_temp_dir, "session_2026/logs").mkdir(parents=True)
        raise error

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(machine, "_try", lambda folder: None)  # pytest's folder may be a long path
    monkeypatch.setattr(ray, "init", fail)
    handler = logging.FileHandler(tmp_path / "study.log")
    logging.root.addHandler(handler)
    try:
        with pytest.raises(DimError) as told, cluster(Config(), SilentProgress()):
            pytest.fail("it is up")
    finally:
        logging.root.removeHandler(handler)
        handler.close()
    [logs] = tmp_path.glob("dim-*/session_2026/logs")
    assert told.value.exit_code == 1
    assert str(told.value).startswith("Ray didn't start on this machine: ")
    assert (str(error) or type(error).__name__).rstrip(".")[:60] in str(told.value)
    assert f" More is in {logs} and " in str(told.value)
    assert str(told.value).endswith(f" and {tmp_path / 'study.log'}.")
    assert "\n" not in str(told.value)
    assert told.value.__cause__ is error  # whose traceback is for the log


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(signal.SIGTERM)], ids=repr)
def test_run_can_be_ended_while_ray_starts_and_leaves_nothing(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def end(**options: Any) -> None:
        raise error

    def command(argv: Sequence[str]) -> None:
        with cluster(Config(), SilentProgress()):
            pytest.fail("it is up")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(machine, "_try", lambda folder: None)
    monkeypatch.setattr(ray, "init", end)
    assert run_main(command, []) == (143 if isinstance(error, SystemExit) else 130)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("address", ["nonsense", "http://127.0.0.1:8265", "no-such-scheme://head", "127.0.0.1:6379/x"])
def test_address_that_ray_refuses_is_one_sentence(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ResourceError) as told, cluster(Config(), SilentProgress()):
        pytest.fail("it was joined")
    assert str(told.value).startswith(f"The Ray cluster at {address!r} (--address or RAY_ADDRESS) can't be joined: ")
    assert "\n" not in str(told.value)


def test_cluster_of_another_version_of_ray_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: Any) -> None:
        check_version_info({"ray_version": "2.1.0", "python_version": "3.9.1"}, "node 127.0.0.1:6379")

    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ResourceError) as told, cluster(Config(), SilentProgress()):
        pytest.fail("it was joined")
    assert re.search(rf"can't be joined: Version mismatch.* 2\.1\.0 .* {ray.__version__} ", str(told.value))


JOIN = """
from dim_ray.config import Config, StudyConfig
from dim_ray.distributed.cluster import autoscaler
from dim_ray.distributed.cluster.joining import cluster
from dim_ray.errors import ResourceError
from dim_ray.progress import SilentProgress

autoscaler._ROOM_SECONDS = 2.0
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
