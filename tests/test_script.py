from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from dim_ray.__main__ import COMMANDS
from dim_ray.cli.completion import SHELLS
from dim_ray.version import __version__

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """The console script, as an installation makes it."""
    module, _, name = PROJECT["project"]["scripts"]["dim-ray"].partition(":")
    path = tmp_path / "dim-ray"
    path.write_text(f"#!{sys.executable}\nimport sys\nfrom {module} import {name}\nsys.exit({name}())\n")
    path.chmod(0o755)
    return path


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, env=environment)


def test_alone_it_lists_every_command(script: Path) -> None:
    result = run(script)
    assert result.returncode == 0
    listed = [line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ")]
    assert listed == [*COMMANDS, "completion"]
    assert run(script, "--help").stdout == run(sys.executable, "-m", "dim_ray").stdout == result.stdout
    assert run(script, "--version").stdout == f"{__version__}\n"


def test_every_command_of_the_package_is_one_of_the_script() -> None:
    contract = next(c for c in PROJECT["tool"]["importlinter"]["contracts"] if c["id"] == "layers")
    assert contract["layers"][0] == "dim_ray.__main__"
    assert set(contract["layers"][1].split(" : ")) == {f"dim_ray.{name}" for name in COMMANDS}


def test_a_command_gets_its_flags_and_texts_name_it_as_it_was_typed(script: Path, tmp_path: Path) -> None:
    words = ("results", "list", "--storage", str(tmp_path / "none"))
    typed, module = run(script, *words), run(sys.executable, "-m", "dim_ray.results", *words[1:])
    assert typed.returncode == module.returncode == 1
    assert "run python -m dim_ray.tune, or" in module.stderr
    assert typed.stderr == module.stderr.replace("python -m dim_ray.", "dim-ray ")
    typed, module = run(script, "tune", "--help"), run(sys.executable, "-m", "dim_ray.tune", "--help")
    assert typed.stdout == module.stdout.replace("python -m dim_ray.", "dim-ray ")
    assert typed.stdout.startswith("usage: dim-ray tune [flags]")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tuen"], "there is no command 'tuen'; did you mean 'tune'? Known: "),
        (["completion"], "completion takes one shell of bash, zsh, fish; given: none."),
        (["completion", "cmd.exe"], "given: cmd.exe."),
        (["tune", "--ipcs"], "unknown flag --ipcs; did you mean --ipc?"),
    ],
)
def test_what_it_does_not_know_is_refused(script: Path, words: list[str], message: str) -> None:
    result = run(script, *words)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_list_needs_neither_torch_nor_ray() -> None:
    code = (
        "from dim_ray.__main__ import main; main([]); import sys; print({'torch', 'ray', 'pandas'} & set(sys.modules))"
    )
    assert run(sys.executable, "-c", code).stdout.splitlines()[-1] == "set()"


def test_scripts_for_shells_name_the_program() -> None:
    pytest.importorskip("argcomplete")
    for shell in SHELLS:
        result = run(sys.executable, "-m", "dim_ray", "completion", shell)
        assert result.returncode == 0
        assert "dim-ray" in result.stdout


@pytest.mark.parametrize(
    ("line", "offered", "others"),
    [
        ("dim-ray re", {"results", "report"}, set()),
        ("dim-ray tune --da", {"--dataset", "--data-root"}, set()),
        ("dim-ray tune --pool.s", {"--pool.size", "--pool.seed"}, {"--storage"}),
        ("dim-ray tune --study.sampler ", {"tpe", "gp"}, {"asha"}),
        ("dim-ray evaluate --protocol fixed real", {"real_fixed", "real_full"}, {"fixed"}),
        ("dim-ray results list --protocol f", {"fixed "}, {"on_the_fly"}),
        ("dim-ray results e", {"export "}, {"list"}),
    ],
)
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes(script: Path, line: str, offered: set[str], others: set[str]) -> None:
    pytest.importorskip("argcomplete")
    asking = dedent("""
        eval "$("$1" completion bash)"
        COMP_LINE=$2 COMP_POINT=${#2} COMP_TYPE=9 COMPREPLY=()
        "$(complete -p dim-ray | sed 's/.*-F \\([^ ]*\\).*/\\1/')" "$1"
        printf '%s\\n' "${COMPREPLY[@]}"
        """)
    result = run("bash", "-c", asking, "bash", script, line)
    found = set(result.stdout.splitlines())
    assert offered <= found, result.stderr
    assert not others & found
