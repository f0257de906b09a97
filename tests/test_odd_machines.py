"""The commands themselves on machines that aren't as usual: all of them find the same."""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from pathlib import Path

import pytest

from dim_ray.cli.main import run_main
from dim_ray.config import DataConfig
from dim_ray.core.data.dataset import load_dataset
from dim_ray.distributed.cluster import joining
from dim_ray.distributed.preflight import check
from dim_ray.errors import DataError, ResourceError
from tests.helpers.logs import closed_logs as closed_logs
from tests.helpers.odd_machines import (
    NAMELESS,
    NO_LOOPBACK,
    run_python,
    short_folder,  # noqa: F401  # a fixture
)
from tests.helpers.runs import ONE_STUDENT, arguments

TINY = arguments("storage", ONE_STUDENT)
COMMANDS = {
    "tune": ["dim_ray.tune", *TINY],
    "dry run": ["dim_ray.tune", "--dry-run", *TINY],
    **{name: [f"dim_ray.{name}", "--storage", "storage"] for name in ("doctor", "pool", "distill")},
}
NOBODY = {"HOME": None, "USER": None, "LOGNAME": None, "RAY_ADDRESS": None, "RAY_AUTH_MODE": None}


def test_machine_without_loopback_is_refused(short_folder: Path) -> None:  # noqa: F811
    run = run_python("-m", *COMMANDS["tune"], under=NO_LOOPBACK, folder=short_folder, environment={})
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].startswith("error: Ray's processes talk over 127.0.0.1, and a test connection")
    assert "Traceback" not in run.stderr
    assert not run.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_a_machine_on_which_ray_cannot_work(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise ResourceError("there is no loopback")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(joining, "check_machine", refuse)
    module, *arguments = COMMANDS[command]
    assert run_main(importlib.import_module(module).main, arguments) == 2
    output = capsys.readouterr()
    assert output.err.splitlines()[-1] == "error: there is no loopback"
    assert not output.out


@pytest.mark.parametrize("command", ["pool", "distill"])
def test_command_starts_nothing_on_a_cluster_that_is_not_ready(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise ResourceError("a node has other code")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(joining, "cluster", lambda *arguments: nullcontext())
    monkeypatch.setattr(check, "check_nodes", refuse)
    module, *arguments = COMMANDS[command]
    assert run_main(importlib.import_module(module).main, arguments) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: a node has other code"
    assert not [*tmp_path.glob("storage/teachers/*"), *tmp_path.glob("storage/priors/*")]


@pytest.mark.ray
def test_ray_that_fails_is_one_sentence(short_folder: Path) -> None:  # noqa: F811
    # Ray's own environment variable, with more objects than there is memory.
    run = run_python(
        *("-m", *COMMANDS["tune"]),
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
        *("-m", *COMMANDS["doctor"]),
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
            *("-m", *COMMANDS[command]),
            under=NAMELESS,
            folder=short_folder,
            environment=NOBODY,
        )
        assert run.returncode == 0, run.stderr
        assert "Traceback" not in run.stderr
    assert list(short_folder.glob("storage/evaluations/**/*.parquet"))


@pytest.mark.slow
def test_ray_train_can_be_imported_without_a_home(short_folder: Path) -> None:  # noqa: F811
    script = "from dim_ray.cli.main import run_main\nrun_main(lambda argv: __import__('ray.train'), [])"
    run = run_python("-c", script, under=NAMELESS, folder=short_folder, environment=NOBODY)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_data_of_a_user_who_does_not_exist_are_missing(kind: str) -> None:
    with pytest.raises(DataError, match="~no-such-user/images"):
        load_dataset(DataConfig(dataset=f"{kind}:~no-such-user/images"))
