"""What every command does around its work: exit codes, sentences, and the log file."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from dim_ray.cli.main import run_main, start_logging
from dim_ray.errors import ArtifactError, StorageError, UsageError
from tests.helpers.disks import fill, small_disk
from tests.helpers.logs import closed_logs as closed_logs


@pytest.fixture(autouse=True)
def _no_warning_reaches_a_user() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# ------------------------------------------------------------------------------------------------ run_main


def test_command_that_ends_well_gives_0_and_gets_its_arguments() -> None:
    received: list[Sequence[str]] = []
    assert run_main(received.append, ["--a"]) == 0
    assert received == [["--a"]]


def test_arguments_are_those_of_the_process_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["program", "--a"])
    received: list[Sequence[str]] = []
    run_main(received.append)
    assert received == [["--a"]]


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UsageError("that can't work"), 2, "error: that can't work\n"),
        (ArtifactError("truncated"), 1, "error: truncated\n"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to continue\n"),
    ],
)
def test_expected_end_gives_one_line_and_its_exit_code(
    error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(argv: Sequence[str]) -> None:
        raise error

    assert run_main(main, []) == code
    assert capsys.readouterr().err == text


def test_termination_ends_a_command_as_an_interrupt_does(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def main(argv: Sequence[str]) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None  # as Ray Tune does, which loses what it was

    assert run_main(main, []) == 143
    assert capsys.readouterr().err == "interrupted; run the same command again to continue\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_defect_keeps_its_traceback() -> None:
    def main(argv: Sequence[str]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_main(main, [])


@pytest.mark.parametrize("num_lines", [1, 100_000])
def test_reader_of_the_output_that_leaves_early_is_no_error(num_lines: int) -> None:
    code = (
        "import sys; from dim_ray.cli.main import run_main\n"
        "def main(argv):\n"
        "    sys.stdin.read()\n"
        f"    for i in range({num_lines}): print(i)\n"
        "sys.exit(run_main(main, []))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stdin.close()  # only now does it print
    assert process.wait(timeout=30) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


# ------------------------------------------------------------------------------------------------ logging


def test_our_details_and_the_warnings_of_libraries_go_to_the_file_only(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "logs" / "run.log"
    start_logging(path)
    logging.getLogger("dim_ray.core.teachers.pool").info("a teacher is trained")
    logging.getLogger("tuning.study").info("a trial starts")
    logging.getLogger("library").info("chatter")
    logging.getLogger("library").warning("something is odd")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("this will go away", DeprecationWarning, stacklevel=1)
    text = path.read_text()
    for expected in ("a teacher is trained", "a trial starts", "something is odd", "DeprecationWarning: this will"):
        assert text.count(expected) == 1
    assert "chatter" not in text
    output = capfd.readouterr()
    assert (output.out, output.err) == ("", "")


def test_log_goes_on_in_the_new_file_when_started_again(tmp_path: Path) -> None:
    start_logging(tmp_path / "first.log")
    start_logging(tmp_path / "second.log")
    logging.getLogger("dim_ray").info("hello")
    assert (tmp_path / "first.log").read_text() == ""
    assert (tmp_path / "second.log").read_text().count("hello") == 1


def test_log_on_a_full_disk_lets_the_command_go_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with small_disk(tmp_path / "disk") as disk:
        start_logging(disk / "run.log")
        free = fill(disk)
        for _ in range(100):
            logging.getLogger("dim_ray").info("x" * 100)
        free()
        logging.getLogger("dim_ray").info("the end")
        start_logging(tmp_path / "run.log")
        assert "the end" in (disk / "run.log").read_text()
    assert capfd.readouterr().err == ""


def test_error_that_a_person_reads_in_one_line_has_its_traceback_in_the_log(tmp_path: Path) -> None:
    def main(argv: Sequence[str]) -> None:
        start_logging(tmp_path / "run.log")
        try:
            raise OSError("disk is full")
        except OSError as error:
            raise StorageError("can't write") from error

    assert run_main(main, []) == 1
    assert "OSError: disk is full" in (tmp_path / "run.log").read_text()


def test_log_that_cannot_be_written_is_an_error_of_the_storage(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"run\.log can't be written"):
        start_logging(tmp_path / "file" / "run.log")
    os.mkdir(tmp_path / "run.log")
    with pytest.raises(StorageError, match=r"run\.log can't be written: Is a directory"):
        start_logging(tmp_path / "run.log")
