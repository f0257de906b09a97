"""Preflight on clusters of several nodes of this machine, sound ones and faulty ones."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import dim_ray
from tests.helpers.ray_nodes import node_without, nodes, run_command, wait_for_nodes

pytestmark = [pytest.mark.ray, pytest.mark.slow]

DOCTOR = ["-m", "dim_ray.doctor", "--storage"]
CHECKOUT = Path(dim_ray.__file__).parents[1]
SHORT = """
import sys
from dim_ray.cli.main import run_main
from dim_ray.distributed.preflight import check
from dim_ray.doctor import main

check._ANSWER_SECONDS = 30.0
sys.exit(run_main(main))
"""


def rows(output: str) -> list[list[str]]:
    """Return the cells of the table's rows."""
    return [
        re.split(r"\s{2,}", line.strip()) for line in output.splitlines() if re.match(r" \d+\.\d+\.\d+\.\d+ ", line)
    ]


def other_checkout(folder: Path, file: str, text: str) -> str:
    """Return a copy of the checkout, for PYTHONPATH, with a line added to one file."""
    for package in ("dim_ray", "tuning"):
        shutil.copytree(CHECKOUT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / file).open("a") as opened:
        opened.write(text)
    return str(folder)


def may_unshare() -> bool:
    return os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "true"], check=False).returncode == 0


def test_sound_nodes_pass(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    with nodes({}, {}, {}) as address:
        doctor = run_command(address, [*DOCTOR, str(storage)], cwd=tmp_path)
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert [cells[1:] for cells in rows(doctor.stdout)] == [["ok"] * 7] * 3
    assert doctor.stdout.splitlines()[-1] == "all is well"
    assert [path for path in storage.rglob(".*") if path.is_file()] == []  # the probes are gone


def test_node_with_other_code_is_named_and_no_run_starts(tmp_path: Path) -> None:
    storage, other = (
        tmp_path / "storage",
        other_checkout(tmp_path / "other", "dim_ray/store/writer.py", "# a comment\n"),
    )
    with nodes({}, {"PYTHONPATH": other}) as address:
        doctor = run_command(address, [*DOCTOR, str(storage)], cwd=tmp_path)
        tune = run_command(address, ["-m", "dim_ray.tune", "--storage", str(storage)], cwd=tmp_path)
    assert doctor.returncode == 1, doctor.stdout + doctor.stderr
    head, node = rows(doctor.stdout)
    assert head[1:] == ["ok"] * 7
    assert node[1:] == ["ok", "ok", "code differs", "ok", "ok", "ok", "ok"]
    assert re.search(rf"^- {re.escape(node[0])} has other code of dim_ray .*: digest \w+, and", doctor.stdout, re.M)
    assert tune.returncode == 2, tune.stderr
    assert "error: the cluster isn't ready, and nothing was started:\n- " in tune.stderr
    assert f"{node[0]} has other code" in tune.stderr
    assert not [*storage.glob("teachers/*"), *storage.glob("priors/*")]


@pytest.mark.skipif(not may_unshare(), reason="needs the right to mount")
def test_storage_that_a_node_does_not_see_is_refused(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    storage.mkdir()
    with nodes({}) as address, node_without(storage, address):
        wait_for_nodes(address, 2)
        doctor = run_command(address, [*DOCTOR, str(storage)], cwd=tmp_path)
    assert doctor.returncode == 1, doctor.stdout + doctor.stderr
    head, node = rows(doctor.stdout)
    assert head[2] == "ok"
    assert node[2] == "not shared"
    assert f"- {node[0]} doesn't share the storage {storage}: a file that this process wrote isn't there." in (
        doctor.stdout
    )


def test_wrong_interface_is_explained(tmp_path: Path) -> None:
    with nodes({}, {"GLOO_SOCKET_IFNAME": "nosuch0"}) as address:
        doctor = run_command(address, [*DOCTOR, str(tmp_path / "storage")], cwd=tmp_path)
    assert doctor.returncode == 1, doctor.stdout + doctor.stderr
    head, node = rows(doctor.stdout)
    assert head[1:7] == node[1:7] == ["ok"] * 6
    assert node[7] == "failed"
    [sentence] = [line for line in doctor.stdout.splitlines() if line.startswith("- ")]
    assert sentence.startswith("- the process group of 2 nodes doesn't work. ")
    assert re.search(rf"{re.escape(node[0])}: interface nosuch0 of .*lo", sentence)
    assert "GLOO_SOCKET_IFNAME" in sentence


def test_node_that_hangs_is_named(tmp_path: Path) -> None:
    other = other_checkout(tmp_path / "other", "dim_ray/__init__.py", "import time; time.sleep(3600)\n")
    with nodes({}, {"PYTHONPATH": other}) as address:
        doctor = run_command(address, ["-c", SHORT, "--storage", str(tmp_path / "storage")], cwd=tmp_path)
    assert doctor.returncode == 1, doctor.stdout + doctor.stderr
    head, node = rows(doctor.stdout)
    assert head[1:] == ["ok"] * 6 + ["-"]
    assert node[1:] == ["none"] + ["-"] * 6
    assert f"- {node[0]} doesn't answer: no answer within 30 seconds." in doctor.stdout
