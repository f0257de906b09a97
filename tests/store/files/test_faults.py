"""A storage that refuses for a while, by real faults: a full disk, a server that throttles, a closed folder."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest

from dim_ray.errors import StorageError
from dim_ray.store.artifacts import ArtifactStore
from dim_ray.store.files.faults import PAUSES_SECONDS, can_pass
from dim_ray.store.files.filesystem import open_root, probe
from dim_ray.store.reader import Reader
from dim_ray.store.writer import Writer
from tests.helpers.disks import after, fill, remount, small_disk
from tests.helpers.made_rows import evaluation, trial

SHORT = (0.05,) * 100
LONG = (60.0,)  # a test that pauses once has failed


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


def write_row(root: str, pauses_seconds: tuple[float, ...]) -> None:
    Writer(root, pauses_seconds).append_evaluations([evaluation()])


def write_trial(root: str, pauses_seconds: tuple[float, ...]) -> None:
    Writer(root, pauses_seconds).append_trial(trial())


def write_artifact(root: str, pauses_seconds: tuple[float, ...]) -> None:
    ArtifactStore(root, pauses_seconds).write("teachers", "aa", {"a": b"1" * 9000, "b": b"2"}, {"is": "whole"})


def write_file(root: str, pauses_seconds: tuple[float, ...]) -> None:
    ArtifactStore(root, pauses_seconds).write_bytes("studies/a/config.yaml", b"3" * 9000)


WRITES = [write_row, write_trial, write_artifact, write_file]


def check_that_all_is_there(root: str) -> None:
    """Nothing is lost or doubled, and nothing unfinished is left."""
    assert len(Reader(root).evaluations()) == 1
    assert len(Reader(root).trials()) == 1
    store = ArtifactStore(root)
    assert store.list("teachers") == ["aa"]
    assert store.read("teachers", "aa").files == {"a": b"1" * 9000, "b": b"2"}
    assert store.read_bytes("studies/a/config.yaml") == b"3" * 9000
    assert not list(Path(root).rglob(".*"))


def test_what_is_written_to_a_full_disk_is_there_once_the_disk_is_freed(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = str(disk)
    with after(0.5, fill(disk)), ThreadPoolExecutor(len(WRITES)) as threads:
        list(threads.map(lambda write: write(root, SHORT), WRITES))
    check_that_all_is_there(root)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len([text for text in warnings if "the disk is full" in text]) == len(WRITES), "each says it once"
    assert len([text for text in warnings if "works again" in text]) == len(WRITES)
    assert len(warnings) == 2 * len(WRITES)


@pytest.mark.slow
def test_disk_that_is_full_for_twenty_seconds_loses_nothing(disk: Path) -> None:
    root = str(disk)
    with after(20.0, fill(disk)), ThreadPoolExecutor(len(WRITES)) as threads:
        list(threads.map(lambda write: write(root, PAUSES_SECONDS), WRITES))
    check_that_all_is_there(root)


def test_patience_is_more_than_half_a_minute_and_its_pauses_grow() -> None:
    assert sum(PAUSES_SECONDS) >= 30
    assert list(PAUSES_SECONDS) == sorted(PAUSES_SECONDS)
    assert PAUSES_SECONDS[0] <= 1


@pytest.mark.parametrize("write", WRITES)
def test_disk_that_stays_full_is_an_error_in_the_end(disk: Path, write: Callable[..., None]) -> None:
    (disk / "studies/a").mkdir(parents=True)
    free = fill(disk)
    with pytest.raises(StorageError, match="the disk is full; free some space"):
        write(str(disk), (0.01, 0.02))
    free()
    write(str(disk), ())


@pytest.mark.parametrize("write", WRITES)
def test_permission_that_is_denied_is_an_error_at_once(closed_folder: Path, write: Callable[..., None]) -> None:
    with pytest.raises(StorageError, match="permission denied"):
        write(str(closed_folder), LONG)


def test_disk_that_is_read_only_is_an_error_at_once(disk: Path) -> None:
    remount(disk, "ro")
    with pytest.raises(StorageError, match="permission denied"):
        write_row(str(disk), LONG)


def test_root_that_is_a_file_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="is a file where a folder is needed"):
        write_row(str(tmp_path / "file"), LONG)


def test_probe_waits_for_nothing(disk: Path) -> None:
    fill(disk)
    began = time.monotonic()
    with pytest.raises(StorageError, match="the disk is full"):
        probe(str(disk))
    assert time.monotonic() - began < min(1.0, sum(PAUSES_SECONDS))


@pytest.mark.parametrize(
    "code",
    ["EIO", "EAGAIN", "ENOSPC", "EDQUOT", "ESTALE", "ETIMEDOUT", "ECONNREFUSED", "ECONNRESET", "EHOSTUNREACH"],
)
def test_errors_of_a_disk_or_server_that_comes_back_can_pass(code: str) -> None:
    assert can_pass(OSError(getattr(errno, code), "as the system says it"))


@pytest.mark.parametrize("code", ["EACCES", "EPERM", "EROFS", "ENOTDIR", "EISDIR", "ENOENT", "ENAMETOOLONG", "EINVAL"])
def test_errors_that_somebody_has_to_mend_cannot_pass(code: str) -> None:
    assert not can_pass(OSError(getattr(errno, code), "as the system says it"))


@pytest.mark.parametrize(
    ("text", "passes"),
    [  # as pyarrow 25 words them
        ("When x: AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7, Could not connect", True),
        ("When x: AWS Error SLOW_DOWN during CreateMultipartUpload operation: no", True),
        ("When x: AWS Error INTERNAL_FAILURE during CreateMultipartUpload operation: no", True),
        ("When x: AWS Error UNKNOWN (HTTP status 503) during HeadObject operation: No response body.", True),
        ("When x: AWS Error NO_SUCH_UPLOAD during CompleteMultipartUpload operation: no", True),
        ("google::cloud::Status(UNAVAILABLE: Retry policy exhausted)", True),
        ("When x: AWS Error ACCESS_DENIED during CreateMultipartUpload operation: no", False),
        ("When x: AWS Error NO_SUCH_BUCKET during CreateMultipartUpload operation: no", False),
        ("When x: AWS Error UNKNOWN (HTTP status 400) during HeadObject operation: No response body.", False),
        ("google::cloud::Status(PERMISSION_DENIED: no)", False),
    ],
)
def test_texts_of_object_stores_are_told_apart(text: str, passes: bool) -> None:
    assert can_pass(OSError(text)) == passes


class StaleFileSystem:
    """A shared disk whose server was started again; none here does that."""

    def __init__(self, num_errors: int) -> None:
        self.num_errors = num_errors

    def open_input_stream(self, path: str) -> Any:
        if self.num_errors:
            self.num_errors -= 1
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return pafs.LocalFileSystem().open_input_stream(path)


def test_reading_waits_too(tmp_path: Path) -> None:
    root = open_root(str(tmp_path))
    root.write("a", b"1")
    with pytest.raises(StorageError, match="Stale file handle"):
        replace(root, filesystem=StaleFileSystem(1)).read("a")
    stale = StaleFileSystem(3)
    assert replace(root, filesystem=stale, pauses_seconds=SHORT).read("a") == b"1"
    assert stale.num_errors == 0
