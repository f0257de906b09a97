from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from dim_ray.distributed.cluster import machine
from dim_ray.distributed.cluster.machine import make_folder
from dim_ray.errors import ResourceError
from dim_ray.progress import SilentProgress
from tests.helpers.disks import fill, remount, small_disk
from tests.helpers.odd_machines import (
    NAMELESS,
    NO_LOOPBACK,
    ONLY_IPV6,
    READ_ONLY_SHARED_MEMORY,
    run_python,
    short_folder,  # noqa: F401  # a fixture
)

SOCKET = "/session_2026-11-30_08-00-00_000000_/sockets/plasma_store"  # its process id comes on top
LONGEST_PATH = 103 if sys.platform == "darwin" else 107
CHECK = "from dim_ray.distributed.cluster.machine import check_machine as check; check()"
LIMITED = """
import resource
from dim_ray.distributed.cluster.machine import check_machine, object_store_bytes
resource.setrlimit(resource.RLIMIT_AS, (9_000_000_000, 9_000_000_000))
check_machine()
print(object_store_bytes())
resource.setrlimit(resource.RLIMIT_AS, (7_000_000_000, 7_000_000_000))
check_machine()
"""


class Told(SilentProgress):
    def __init__(self) -> None:
        self.text = ""

    def message(self, text: str) -> None:
        self.text += text


@pytest.fixture(autouse=True)
def usual(monkeypatch: pytest.MonkeyPatch, short_folder: Path) -> Path:  # noqa: F811
    """Return the folder that stands for /tmp."""
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(machine, "_USUAL", (str(short_folder),))
    return short_folder


def test_folder_is_new_and_keeps_other_users_out(usual: Path) -> None:
    told = Told()
    first, second = make_folder(told), make_folder(told)
    assert first != second
    assert {first.parent, second.parent} == {usual}
    assert (first.stat().st_mode & 0o777, first.stat().st_uid) == (0o700, os.getuid())
    assert not list(first.iterdir())
    assert not told.text


@pytest.mark.parametrize("character", ["a", "é"])
def test_folder_is_where_the_user_wants_it_as_long_as_sockets_fit(
    character: str, usual: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = LONGEST_PATH - len(SOCKET) - len(str(os.getpid())) - len("/dim-12345678") - len(f"{usual}/")
    size = len(character.encode())
    fits, too_long = (usual / (character * (room // size + more) + "a" * (room % size)) for more in (0, 1))
    fits.mkdir()
    too_long.mkdir()
    told = Told()
    monkeypatch.setenv("TMPDIR", str(fits))
    assert make_folder(told).parent == fits
    assert not told.text
    monkeypatch.setenv("TMPDIR", str(too_long))
    assert make_folder(told).parent == usual
    assert f"TMPDIR={too_long}: the path is {size} bytes too long for Ray's sockets" in told.text
    assert not list(too_long.iterdir())


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
@pytest.mark.parametrize("case", ["missing", "file", "relative", "latin-1"])
def test_folder_that_does_not_work_is_named_and_another_is_taken(
    case: str, name: str, usual: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {"missing": usual / "none", "file": usual / "file", "relative": Path("tmp")}
    place = places.get(case, usual / os.fsdecode(b"\xe9"))
    (usual / "file").touch()
    (usual / os.fsdecode(b"\xe9")).mkdir()
    told = Told()
    monkeypatch.setenv(name, str(place))
    assert make_folder(told).parent == usual
    assert f"({name}={os.fsencode(place).decode(errors='replace')}: " in told.text


def test_full_and_read_only_disks_are_passed_over(usual: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(usual / "disk", size_kib=200_000) as disk:
        monkeypatch.setenv("TMPDIR", str(disk))
        assert make_folder(SilentProgress()).parent == disk
        fill(disk)
        assert make_folder(SilentProgress()).parent == usual
        remount(disk, "ro")
        assert make_folder(SilentProgress()).parent == usual


def test_run_without_any_folder_is_refused_with_every_reason(usual: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_USUAL", (str(usual / "none"),))
    monkeypatch.setenv("TMPDIR", str(usual / "neither"))
    with pytest.raises(ResourceError, match=r"TMPDIR=.*/neither: No such file.*; .*/none: No such file.*; set TMPDIR"):
        make_folder(SilentProgress())


def test_folder_of_another_user_is_passed_over(usual: Path) -> None:
    usual.chmod(0o755)
    script = "from dim_ray.progress import SilentProgress as P\n"
    script += "from dim_ray.distributed.cluster.machine import make_folder\nmake_folder(P()).rmdir()"
    script += f"\nfrom dim_ray.distributed.cluster import machine\nmachine._USUAL = ({str(usual)!r},)\nmake_folder(P())"
    run = run_python("-c", script, under=NAMELESS, folder=usual, environment={"TMPDIR": str(usual)})
    assert f"(TMPDIR={usual}: Permission denied); set TMPDIR" in run.stderr


@pytest.mark.parametrize(
    ("under", "sentence"),
    [
        (
            NO_LOOPBACK,
            "Ray's processes talk over 127.0.0.1, and a test connection there fails (Network is unreachable)",
        ),
        (ONLY_IPV6, "Ray's processes talk over 127.0.0.1, and a test connection there fails (Cannot assign requested"),
        (READ_ONLY_SHARED_MEMORY, "Ray keeps its objects in the shared memory /dev/shm, which is read-only"),
    ],
)
def test_machine_on_which_ray_cannot_work_is_refused(under: list[str], sentence: str, usual: Path) -> None:
    run = run_python("-c", CHECK, under=under, folder=usual, environment={})
    assert f"dim_ray.errors.ResourceError: {sentence}" in run.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_little_address_space_limits_the_store_and_less_is_refused(usual: Path) -> None:
    run = run_python("-c", LIMITED, under=[], folder=usual, environment={})
    assert run.stdout == "2000000000\n", run.stderr
    assert "A process may have 7.0 GB of address space (ulimit -v), and Ray needs at least 8 GB" in run.stderr
