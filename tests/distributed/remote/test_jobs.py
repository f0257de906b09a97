"""Jobs on a real Ray head of this machine; a plain forward of its port stands for ssh."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dim_ray.distributed.remote import connection, jobs
from dim_ray.distributed.remote.connection import connect
from dim_ray.distributed.remote.jobs import EXIT_DETACHED, EXIT_STOPPED, Action, Request, call_head
from dim_ray.errors import DimError, UsageError
from tests.helpers.ray_cluster import RayCluster
from tests.helpers.runs import marked_processes

MODULE = "tests.helpers.errand"
CLUSTER = Path("my cluster.yaml")
MARK = "DIM_RAY_TEST_CALL"
# What `ray dashboard FILE --port=PORT` does, without ssh: forwards the port until a file appears.
FORWARD = """
import asyncio, os, sys
head, cut = sys.argv[1:3]
port = sys.argv[-1].partition("=")[2]

async def copy(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()

async def answer(reader, writer):
    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", int(head))
    await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))

async def serve():
    async with await asyncio.start_server(answer, "127.0.0.1", int(port)):
        while not os.path.exists(cut):
            await asyncio.sleep(0.1)
        os._exit(255)

asyncio.run(serve())
"""

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def head() -> Iterator[RayCluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        )  # as on a cluster's nodes
        with RayCluster(num_nodes=0) as cluster:
            yield cluster


@pytest.fixture
def forward(head: RayCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Returns the file whose appearance cuts the connection; ends the jobs of the test."""
    words = (sys.executable, "-c", FORWARD, str(head.dashboard_port), str(tmp_path / "cut"))
    monkeypatch.setattr(connection, "_FORWARD", words)
    for name in ("RAY_API_SERVER_ADDRESS", "no_proxy"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")  # of another cluster, which this machine has joined
    yield tmp_path / "cut"
    (tmp_path / "cut").unlink(missing_ok=True)
    with connect(CLUSTER) as client:
        for job in client.list_jobs():
            if not job.status.is_terminal():
                client.stop_job(str(job.submission_id))


def errand(text: str, file: Path, code: int, *, study: str) -> Request:
    return Request(action="run", module=MODULE, name=f"errand-{study}", arguments=(text, str(file), str(code)))


def on_any(action: Action, job: str | None = None, *, name: str = "errand") -> Request:
    return Request(action=action, module=MODULE, name=name, job=job)


def detach(request: Request) -> tuple[str, str]:
    """Submits, waits for the first line, and interrupts as Ctrl-C does; returns that line, and what was said."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from dim_ray.distributed.remote import connection\n"
        "from dim_ray.distributed.remote.jobs import Request, call_head\n"
        f"connection._FORWARD = {connection._FORWARD!r}\n"
        f"sys.exit(call_head({request!r}, Path({str(CLUSTER)!r})))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, MARK: str(request)},
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)  # to all of a terminal's processes at once
    _, said = process.communicate(timeout=60)
    assert process.returncode == EXIT_DETACHED, said
    assert not marked_processes(MARK, str(request))
    return first, said


def test_job_is_followed_left_come_back_to_and_stopped(
    head: RayCluster, forward: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    now, later, never = tmp_path / "now", tmp_path / "it's later", tmp_path / "never"
    now.touch()

    assert call_head(errand("some $HOME words é", now, 2, study="a"), CLUSTER) == 2
    out, err = capfd.readouterr()
    assert out == f"some $HOME words é {head.address}\nthe end\n"
    assert err == "job errand-a-1 runs on the cluster's head; Ctrl-C leaves it running\n"

    first, said = detach(errand("long", later, 0, study="b"))
    assert first == f"long {head.address}\n"
    assert "detached; job errand-b-1 continues\n" in said
    assert f"follow it: python -m {MODULE} --cluster 'my cluster.yaml' --attach errand-b-1\n" in said
    assert f"stop it:   python -m {MODULE} --cluster 'my cluster.yaml' --stop errand-b-1\n" in said
    first, said = detach(errand("again", later, 0, study="b"))
    assert first == f"long {head.address}\n"
    assert re.search("job errand-b-1 runs this study already, and nothing was submitted: .* long .*it", said)
    later.touch()
    assert call_head(on_any("attach"), CLUSTER) == 0
    assert capfd.readouterr().out == f"long {head.address}\nthe end\n"

    detach(errand("endless", never, 0, study="b"))
    assert call_head(on_any("stop"), CLUSTER) == 0
    assert "job errand-b-2 has ended" in capfd.readouterr().err
    assert call_head(on_any("attach", "errand-b-2"), CLUSTER) == EXIT_STOPPED
    out, err = capfd.readouterr()
    assert out == f"endless {head.address}\n"
    assert "was stopped" in err


def test_job_that_is_killed_ends_with_the_signal(forward: Path, tmp_path: Path) -> None:
    assert call_head(errand("doomed", tmp_path, -9, study="killed"), CLUSTER) == 137


def test_configuration_goes_along(forward: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = "pool:\n  size: 5  # it's five\nstorage.root: '/shared/é $HOME \\n'\n"
    arguments = ("--print-config", "--num-trials", "4")
    request = Request(action="run", module="dim_ray.tune", name="tune-c", arguments=arguments, config_text=text)
    assert call_head(request, CLUSTER) == 0
    printed = capfd.readouterr().out.splitlines()
    assert printed[0] == "data:"  # Ray's own lines, which name the command, are left out
    assert {"  size: 5", "  num_trials: 4", "  root: /shared/é $HOME \\n"} <= set(printed)


def test_of_two_that_submit_at_the_same_moment_one_follows_the_other(
    forward: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    request = errand("twice", tmp_path / "never", 0, study="same")
    with connect(CLUSTER) as client, ThreadPoolExecutor(2) as threads:
        assert [*threads.map(lambda _: jobs._submit(client, request), range(2))] == ["errand-same-1"] * 2
        said = capfd.readouterr().err
        assert said.count("Ctrl-C leaves it running") == said.count("nothing was submitted") == 1


def test_job_is_chosen(forward: Path, tmp_path: Path) -> None:
    tmp_path.joinpath("now").touch()
    with connect(CLUSTER) as client:
        for number, file in enumerate(("never", "now")):
            jobs._submit(client, errand("long", tmp_path / file, 0, study=f"choice-{number}"))
        jobs._wait(client, "errand-choice-1-1")

        def choose(action: Action, job: str | None = None, name: str = "errand-choice") -> str:
            return jobs._choose(client, on_any(action, job, name=name))

        assert choose("attach") == choose("stop") == "errand-choice-0-1"  # which runs, before the later one
        assert choose("attach", name="errand-choice-1") == "errand-choice-1-1"
        assert choose("attach", "errand-choice-1-1") == "errand-choice-1-1"
        jobs._submit(client, errand("long", tmp_path / "never", 0, study="choice-2"))
        known = r"errand-choice-2-1 \(\w+\), errand-choice-1-1 \(succeeded\), errand-choice-0-1 \(running\)\."
        refusals: list[tuple[Action, str | None, str, str]] = [
            ("attach", None, "other", "no job named other-"),
            ("stop", None, "errand-choice-1", r"--stop needs .*: errand-choice-1-1 \(succeeded\)\."),
            ("stop", None, "errand-choice", f"--stop needs .*: {known}"),
            ("attach", "errand-7", "errand-choice", f"--attach needs .*: {known}"),
        ]
        for action, job, name, words in refusals:
            with pytest.raises(UsageError, match=words):
                choose(action, job, name)


def test_lost_connection_is_an_error_that_says_how_to_come_back(forward: Path, tmp_path: Path) -> None:
    def cut() -> None:
        with connect(CLUSTER) as client:
            _wait_until(lambda: "long" in client.get_job_logs("errand-lost-1"))
        forward.touch()

    cutter = threading.Timer(5, cut)
    cutter.start()
    with pytest.raises(DimError, match=r"was lost \(.*\)\. Job errand-lost-1 continues.*--attach erra"):
        call_head(errand("long", tmp_path / "never", 0, study="lost"), CLUSTER)
    cutter.join()


def test_head_that_is_not_up_is_an_error(tmp_path: Path) -> None:
    """With Ray's own command."""
    file = tmp_path / "down.yaml"
    file.write_text("cluster_name: down\nprovider: {type: local, head_ip: 192.0.2.1, worker_ips: []}\nauth: {}\n")
    with pytest.raises(
        DimError, match=r"The head of .*down\.yaml can't be reached .*not found!.*`ray up .*` starts it"
    ):
        call_head(on_any("attach"), file)


def _wait_until(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.2)
