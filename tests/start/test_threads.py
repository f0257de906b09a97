"""How OpenMP's threads wait, in commands and in Ray's processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray

from dim_ray.cli.main import run_main
from dim_ray.config import Config
from dim_ray.distributed.cluster import joining
from dim_ray.errors import DimError
from dim_ray.progress import SilentProgress
from dim_ray.start import threads
from dim_ray.start.threads import idle_cores, share_cores, wait_policy

CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


@pytest.fixture(autouse=True)
def _no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CHOICES:
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)


def test_threads_sleep_while_they_wait() -> None:
    run_main(lambda argv: None, [])
    assert wait_policy() == {"OMP_WAIT_POLICY": "passive"}


@pytest.mark.parametrize("name", CHOICES)
def test_choice_of_the_user_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "7")
    share_cores()
    assert wait_policy() == {name: "7"}


def test_commands_set_it_before_torch_is_imported() -> None:
    code = (
        "import os, sys\n"
        "from dim_ray.cli import main\n"
        "from dim_ray.start import threads\n"
        "from dim_ray import distill, doctor, evaluate, generate, pool, quirks, results, tune\n"
        "def see(argv):\n"
        "    print(os.environ.get('OMP_WAIT_POLICY'), 'torch' in sys.modules)\n"
        "main.run_main(see, [])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "passive False\n"


@pytest.mark.parametrize("joins", [True, False])
def test_processes_of_a_joined_cluster_are_told(joins: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []

    def init(*args: Any, **options: Any) -> None:
        given.append(options)
        raise ConnectionError("no")

    monkeypatch.setenv("RAY_ADDRESS", "auto" if joins else "")
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setitem(os.environ, "OMP_WAIT_POLICY", "passive")
    with pytest.raises(DimError), joining.cluster(Config(), SilentProgress()):
        pytest.fail("it was joined")
    expected = {"env_vars": {"OMP_WAIT_POLICY": "passive"}} if joins else None  # inherited
    assert given[0].get("runtime_env") == expected


def test_busy_cores_are_not_idle() -> None:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in os.sched_getaffinity(0)]
    try:
        assert idle_cores() == 1
    finally:
        for process in busy:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("idle", "expected"),
    [((100, 100, 100, 100), 4), ((100, 100, 2, 100), 3), ((60, 60, 40, 40), 2), ((0, 0, 0, 0), 1)],
)
def test_idle_cores_are_those_of_this_process(
    idle: tuple[int, ...], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 2, 3, 12})
    monkeypatch.setattr(threads, "_TIMES", tmp_path / "stat")

    def write(idle: tuple[int, ...], seconds: int) -> None:
        own = zip((1, 2, 3, 12), idle, strict=True)
        lines = [f"cpu{core} {7 + 100 * seconds - ticks} 0 0 {ticks} 0 0 0 0 99 99" for core, ticks in own]
        threads._TIMES.write_text("\n".join(["cpu 1 1 1 1 1 1 1 1 1 1", "cpu0 1 1 1 1 1 1 1 1 1 1", *lines, "ctxt 1"]))

    write((0, 0, 0, 0), 0)
    monkeypatch.setattr("time.sleep", lambda _: write(idle, 1))
    assert idle_cores() == expected


def test_all_cores_count_where_the_system_doesnt_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_TIMES", tmp_path / "stat")
    assert idle_cores() == os.cpu_count()
