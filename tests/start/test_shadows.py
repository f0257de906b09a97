"""Files of a person's own that Python takes for a package which a command needs: the file is named in one sentence."""

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


def test_packages_that_are_refused_are_those_that_the_project_requires() -> None:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = {canonicalize_name(Requirement(text).name) for text in project["dependencies"]}
    names = packages_distributions()
    assert {canonicalize_name(names[name][0]) for name in NEEDED} == required
