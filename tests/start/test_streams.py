"""Output never fails a command: with any encoding, closed, or onto a full disk."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from dim_ray.store.writer import Writer
from tests.helpers.made_rows import evaluation, trial

C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
PRINTING = """
import sys
from dim_ray.cli.main import run_main
from dim_ray.errors import StorageError
from dim_ray.progress import make_progress
from pathlib import Path

def main(argv):
    with make_progress() as progress:
        progress.message("é \\udcff of 数据")
        progress.start("work", 1, "parts")
    print("1.0 ± 0.5 é \\udcff 数据 …")
    Path(argv[0]).write_text("")
    if argv[1:]:
        raise StorageError("no é \\udcff")

sys.exit(run_main(main))
"""


def run(
    *command: str | bytes, environment: Mapping[str, str] | None = None, shell: str = ""
) -> subprocess.CompletedProcess[bytes]:
    """Runs Python with the arguments; `shell` redirects its streams."""
    usual = {name: value for name, value in os.environ.items() if name not in ("PYTHONUNBUFFERED", "PYTHONIOENCODING")}
    return subprocess.run(
        ["bash", "-c", f'exec "$@" {shell}', "bash", sys.executable, *command],
        env={**usual, **(environment or {})},
        capture_output=True,
        timeout=120,
        check=False,
    )


def printing(folder: Path) -> str:
    """Writes the script, as an argument would be ASCII in the C locale."""
    (folder / "printing.py").write_text(PRINTING, encoding="utf-8")
    return str(folder / "printing.py")


@pytest.fixture
def storage(tmp_path: Path) -> str:
    root = str(tmp_path / "storage")
    Writer(root).append_evaluations([evaluation(seed=seed, accuracy=seed / 10) for seed in range(3)])
    Writer(root).append_trial(trial())
    return root


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"PYTHONIOENCODING": "ascii"}, b"1.0 +- 0.5 \\xe9 \\udcff \\u6570\\u636e ..."),
        (C_LOCALE, b"1.0 +- 0.5 \\xe9 \\udcff \\u6570\\u636e ..."),
        ({"PYTHONIOENCODING": "latin-1"}, b"1.0 \xb1 0.5 \xe9 \\udcff \\u6570\\u636e ..."),
        ({"PYTHONIOENCODING": "cp1252"}, b"1.0 \xb1 0.5 \xe9 \\udcff \\u6570\\u636e \x85"),
        ({"PYTHONIOENCODING": "utf-8"}, "1.0 ± 0.5 é \\udcff 数据 …".encode()),
    ],
)
def test_symbols_that_an_encoding_lacks_have_stand_ins(
    environment: dict[str, str], line: bytes, tmp_path: Path
) -> None:
    done = run(printing(tmp_path), str(tmp_path / "made"), "fail", environment=environment)
    assert done.stdout == line + b"\n"
    assert b"Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(b"error: no ")
    assert done.returncode == 1


UNBUFFERED = {"PYTHONUNBUFFERED": "1"}


@pytest.mark.parametrize(
    ("shell", "code", "unbuffered"),
    [
        (">/dev/full", 1, {}),
        (">/dev/full", 1, UNBUFFERED),
        ("2>/dev/full", 0, {}),
        (">/dev/full 2>/dev/full", 1, {}),
        (">&-", 0, {}),
        ("2>&-", 0, {}),
        ("<&- >&- 2>&-", 0, {}),
        ("<&- >&- 2>&-", 0, UNBUFFERED),
    ],
)
def test_stream_that_is_full_or_closed_ends_nothing(
    shell: str, code: int, unbuffered: dict[str, str], tmp_path: Path
) -> None:
    done = run(printing(tmp_path), str(tmp_path / "made"), environment=unbuffered, shell=shell)
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    if shell == ">/dev/full":
        assert done.stderr.splitlines()[-1].startswith(b"error: stdout can't be written: No space left on device;")
    if code == 0:
        assert (tmp_path / "made").exists()


def test_closed_stream_isnt_mixed_with_the_next_file_that_is_opened(tmp_path: Path) -> None:
    code = (
        "import sys, subprocess; from dim_ray.cli.main import run_main\n"
        "def main(argv):\n"
        "    with open(argv[0], 'w') as file: subprocess.run(['echo', 'from a process']); print('from us')\n"
        "sys.exit(run_main(main))"
    )
    assert run("-c", code, str(tmp_path / "made"), shell="<&- >&- 2>&-").returncode == 0
    assert (tmp_path / "made").read_text() == ""


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["results", "list"], {"PYTHONIOENCODING": "ascii"}),
        (["results", "pareto"], {"PYTHONIOENCODING": "latin-1"}),
        (["report", "--output", "report"], C_LOCALE),
    ],
)
def test_commands_print_their_tables_in_any_encoding(
    arguments: list[str], environment: dict[str, str], storage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.chdir(tmp_path)
    command, *others = arguments
    done = run("-m", f"dim_ray.{command}", *others, "--storage", storage, environment=environment)
    assert b"Traceback" not in done.stderr
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_argument_that_is_no_text_is_refused(tmp_path: Path) -> None:
    done = run("-m", "dim_ray.tune", "--dataset", b"folder:\xff")
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: the argument folder:\\udcff has bytes that aren't text in this locale")
