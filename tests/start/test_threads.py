"""How OpenMP's threads wait, in commands and in Ray's processes."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import ray

from dim_ray.cli.main import run_main
from dim_ray.config import Config
from dim_ray.distributed.cluster import joining
from dim_ray.errors import DimError
from dim_ray.progress import SilentProgress
from dim_ray.start.threads import share_cores, wait_policy

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


@pytest.mark.parametrize("module", ["tune", "distill", "pool", "evaluate", "quirks", "doctor", "generate", "results"])
def test_commands_set_it_before_torch_is_imported(module: str) -> None:
    code = (
        "import os, sys\n"
        "from dim_ray.cli import main\n"
        "from dim_ray.start import threads\n"
        f"from dim_ray import {module}\n"
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
