"""The two sides together, on a real Ray cluster of this machine; a login shell stands for ssh."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dim_ray.distributed.remote import laptop
from dim_ray.distributed.remote.laptop import EXIT_DETACHED, EXIT_STOPPED, Request, call_head
from tests.distributed.remote.test_laptop import RAY_EXEC
from tests.helpers.ray_cluster import RayCluster
from tests.helpers.runs import NO_TOKEN

MODULE = "tests.helpers.errand"
CLUSTER = Path("cluster.yaml")

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Returns the address of a head, which can be called."""
    (tmp_path / "ray.py").write_text(RAY_EXEC)
    monkeypatch.setattr(laptop, "_RAY", (sys.executable, str(tmp_path / "ray.py")))
    monkeypatch.setattr(laptop, "_ON_HEAD", (sys.executable, "-m", "dim_ray.distributed.remote.head"))
    with RayCluster(num_nodes=0) as cluster:
        environment = {**NO_TOKEN, "RAY_ADDRESS": cluster.address, "PYTHONPATH": str(Path(__file__).parents[2])}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield cluster.address


def errand(text: str, file: Path, code: int, *, study: str) -> Request:
    return Request(action="run", module=MODULE, arguments=(text, str(file), str(code)), study=study)


def detach(request: Request) -> tuple[str, str]:
    """Submits, waits for the first line, and interrupts as Ctrl-C does; returns that line, and what was said."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from dim_ray.distributed.remote import laptop\n"
        f"laptop._RAY = {laptop._RAY!r}\n"
        f"laptop._ON_HEAD = {laptop._ON_HEAD!r}\n"
        "sys.exit(laptop.call_head(laptop.Request.from_json(sys.argv[1]), Path('cluster.yaml')))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, request.to_json()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == EXIT_DETACHED, said
    return first, said


def test_job_is_followed_left_come_back_to_and_stopped(
    address: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    now, later, never = tmp_path / "now", tmp_path / "it's later", tmp_path / "never"
    now.touch()

    assert call_head(errand("some $HOME words", now, 2, study="a"), CLUSTER) == 2
    out, err = capfd.readouterr()
    assert out == f"some $HOME words {address}\nthe end\n"
    assert err == "job errand-a-1 runs on the head of cluster.yaml; Ctrl-C leaves it running\n"

    first, said = detach(errand("long", later, 0, study="b"))
    assert first == f"long {address}\n"
    assert "detached; job errand-b-1 goes on" in said
    first, said = detach(errand("again", later, 0, study="b"))
    assert first == f"long {address}\n"
    assert "job errand-b-1 runs this study already" in said
    later.touch()
    assert call_head(Request(action="attach", module=MODULE), CLUSTER) == 0
    assert capfd.readouterr().out == f"long {address}\nthe end\n"

    detach(errand("endless", never, 0, study="b"))
    assert call_head(Request(action="stop", module=MODULE), CLUSTER) == 0
    assert "job errand-b-2 has ended" in capfd.readouterr().err
    assert call_head(Request(action="attach", module=MODULE, job="errand-b-2"), CLUSTER) == EXIT_STOPPED
    out, err = capfd.readouterr()
    assert out == f"endless {address}\n"
    assert "was stopped" in err
