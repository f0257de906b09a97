"""Files of a person's own that Python takes for a module which a command needs: the file is named in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dim_ray.start.shadows import NEEDED, refuse_shadows

_ROOT = Path(__file__).parents[2]
_COMMANDS = ("tune", "distill", "pool", "evaluate", "generate", "quirks", "results", "report", "doctor")


def run(folder: Path, *arguments: str, python_path: str = "") -> subprocess.CompletedProcess[str]:
    paths = [path for path in (python_path, str(_ROOT)) if path]
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def write(path: Path, text: str = "x = 1\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def is_named(done: subprocess.CompletedProcess[str], shadow: Path, module: str) -> bool:
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return line.startswith(f"error: {shadow} hides the module {module} ") and line.endswith(" has it.")


@pytest.mark.parametrize("file", ["tuning.py", "tuning/__init__.py", "ray.py", "torch.py", "numpy/__init__.py"])
def test_file_with_the_name_of_a_package_is_refused_without_being_run(tmp_path: Path, file: str) -> None:
    shadow = tmp_path / file.partition("/")[0]
    write(tmp_path / file, "open('was_run', 'w')\n")
    assert is_named(run(tmp_path, "dim_ray.tune"), shadow, shadow.stem)
    assert not (tmp_path / "was_run").exists()
    assert not (tmp_path / "dim_storage").exists()


@pytest.mark.parametrize("command", _COMMANDS)
def test_every_command_names_a_file_that_hides_a_module_of_python(tmp_path: Path, command: str) -> None:
    shadow = write(tmp_path / "random.py", "import random\nprint(random.randint(1, 6))\n")
    assert is_named(run(tmp_path, f"dim_ray.{command}", "--help"), shadow, "random")


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("token", ["dim_ray.tune", "--help"]),
        ("logging", ["dim_ray.report", "--help"]),
        ("typing", ["dim_ray.results", "--help"]),
        ("yaml", ["dim_ray.tune", "--help"]),
        ("pandas", ["dim_ray.results", "list"]),
        ("torch", ["dim_ray.generate", "--out", "out"]),
        ("queue", ["dim_ray.tune", "--dry-run"]),
        ("packaging", ["dim_ray.tune", "--dry-run"]),
    ],
)
def test_module_that_is_missed_later_is_named_too(tmp_path: Path, module: str, arguments: list[str]) -> None:
    shadow = write(tmp_path / f"{module}.py")
    assert is_named(run(tmp_path, *arguments), shadow, module)


def test_file_in_a_folder_of_pythonpath_is_named(tmp_path: Path) -> None:
    shadow = write(tmp_path / "mine" / "optuna.py")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert is_named(run(elsewhere, "dim_ray.tune", python_path=str(shadow.parent)), shadow, "optuna")


def test_file_that_no_import_reaches_does_no_harm(tmp_path: Path) -> None:
    for name in ("datasets.py", "turtle.py", "tuning/notes.txt", "train.py"):
        write(tmp_path / name)
    done = run(tmp_path, "dim_ray.results", "--help")
    assert done.returncode == 0, done.stderr


def test_packages_that_pip_installed_where_pythonpath_leads_hide_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "numpy" / "__init__.py")
    write(tmp_path / "numpy-2.4.1.dist-info" / "METADATA")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), sysconfig.get_path("purelib"), str(_ROOT)]))
    monkeypatch.syspath_prepend(str(tmp_path))
    refuse_shadows()


def test_bug_keeps_its_traceback_beside_files_that_hide_nothing(tmp_path: Path) -> None:
    write(tmp_path / "sitecustomize.py")
    write(tmp_path / "bug" / "__init__.py", "import dim_ray\n")
    write(tmp_path / "bug" / "__main__.py", "import bug.part\n")
    write(tmp_path / "bug" / "part.py", "1 / 0\n")
    done = run(tmp_path, "bug", python_path=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_packages_that_are_refused_are_those_that_the_project_requires() -> None:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = {canonicalize_name(Requirement(text).name) for text in project["dependencies"]}
    names = packages_distributions()
    assert {canonicalize_name(names[name][0]) for name in NEEDED} == required
