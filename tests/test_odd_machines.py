"""The commands themselves on machines that aren't as usual: all of them find the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from dim_ray.config import DataConfig
from dim_ray.core.data.dataset import load_dataset
from dim_ray.errors import DataError
from tests.helpers.odd_machines import (
    NAMELESS,
    NO_LOOPBACK,
    run_python,
    short_folder,  # noqa: F401  # a fixture
)
from tests.helpers.runs import FLAGS, ONE_STUDENT

TINY = [word for flag, value in {**FLAGS, **ONE_STUDENT}.items() for word in (flag, *value.split())]
COMMANDS = {
    "tune": ["dim_ray.tune", *TINY],
    "dry run": ["dim_ray.tune", "--dry-run", *TINY],
    "doctor": ["dim_ray.doctor"],
    "pool": ["dim_ray.pool"],
    "distill": ["dim_ray.distill"],
}
NOBODY = {"HOME": None, "USER": None, "LOGNAME": None, "RAY_ADDRESS": None, "RAY_AUTH_MODE": None}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_a_machine_without_loopback(command: str, short_folder: Path) -> None:  # noqa: F811
    run = run_python(
        "-m", *COMMANDS[command], "--storage", "storage", under=NO_LOOPBACK, folder=short_folder, environment={}
    )
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].startswith("error: Ray's processes talk over 127.0.0.1, and a test connection")
    assert "Traceback" not in run.stderr
    assert not run.stdout


@pytest.mark.ray
@pytest.mark.parametrize("command", ["tune", "dry run", "doctor"])
def test_ray_that_fails_is_one_sentence_in_every_command(command: str, short_folder: Path) -> None:  # noqa: F811
    # Ray's own environment variable, with more objects than there is memory.
    run = run_python(
        *("-m", *COMMANDS[command], "--storage", "storage"),
        under=[],
        folder=short_folder,
        environment={"RAY_DEFAULT_OBJECT_STORE_MEMORY_PROPORTION": "5", "TMPDIR": str(short_folder)},
    )
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith("error: Ray didn't start on this machine: After taking into account")
    assert "Traceback" not in run.stderr
    assert not run.stdout
    [log] = short_folder.glob("storage/studies/*/study.log")
    [rays] = short_folder.glob("dim-*/session_2*/logs")
    assert f" More is in {rays} and {log.resolve()}." in run.stderr
    assert "Traceback" in log.read_text()


@pytest.mark.ray
def test_user_without_name_and_home_and_with_a_long_temporary_folder_is_well(short_folder: Path) -> None:  # noqa: F811
    long = short_folder / ("é" * 40)
    long.mkdir()
    long.chmod(0o777)
    run = run_python(
        *("-m", "dim_ray.doctor", "--storage", "storage"),
        under=NAMELESS,
        folder=short_folder,
        environment={**NOBODY, "TMPDIR": str(long)},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "all is well"
    assert f"TMPDIR={long}: the path is " in run.stderr
    assert sorted(path.name for path in short_folder.iterdir()) == sorted([long.name, "storage"])
    [place] = [word for line in run.stderr.splitlines() if "temporary files go to" in line for word in line.split()
               if "/dim-" in word]  # fmt: skip
    assert not Path(place).exists()


@pytest.mark.ray
@pytest.mark.slow
def test_study_of_a_user_without_name_and_home_ends_well(short_folder: Path) -> None:  # noqa: F811
    for command in ("dry run", "tune"):
        run = run_python(
            *("-m", *COMMANDS[command], "--storage", "storage"),
            under=NAMELESS,
            folder=short_folder,
            environment=NOBODY,
        )
        assert run.returncode == 0, run.stderr
        assert "Traceback" not in run.stderr
    assert list(short_folder.glob("storage/evaluations/**/*.parquet"))


def test_ray_train_can_be_imported_without_a_home(short_folder: Path) -> None:  # noqa: F811
    script = "from dim_ray.cli.main import run_main\nrun_main(lambda argv: __import__('ray.train'), [])"
    run = run_python("-c", script, under=NAMELESS, folder=short_folder, environment=NOBODY)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_data_of_a_user_who_does_not_exist_are_missing(kind: str) -> None:
    with pytest.raises(DataError, match="~no-such-user/images"):
        load_dataset(DataConfig(dataset=f"{kind}:~no-such-user/images"))
