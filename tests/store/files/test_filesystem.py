from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from dim_ray.errors import StorageAddressError, StorageError
from dim_ray.store.artifacts import ArtifactStore
from dim_ray.store.files.filesystem import open_root, probe

# Writes a file, and is killed by itself when the first bytes are in it.
KILLED_WRITER = """
import os, signal, sys
from dim_ray.store.files.filesystem import open_root, probe

os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
open_root(sys.argv[1]).write("state.bin", b"half of it")
"""


def test_probe_makes_the_root_and_leaves_nothing_in_it(tmp_path: Path) -> None:
    probe(str(tmp_path / "new/storage"))
    assert list((tmp_path / "new/storage").iterdir()) == []


def test_probe_accepts_an_object_store(object_store: str) -> None:
    probe(object_store)
    assert open_root(object_store).children("teachers") == []


def test_probe_refuses_a_root_that_may_not_be_written(closed_folder: Path) -> None:
    with pytest.raises(StorageError, match=r"can't write .*: permission denied; .*--storage"):
        probe(str(closed_folder))


def test_probe_refuses_a_root_that_is_a_file_or_below_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file is a file; give a folder with --storage"):
        probe(str(tmp_path / "file"))
    with pytest.raises(StorageError, match="is a file where a folder is needed"):
        probe(str(tmp_path / "file/below"))


def test_probe_says_that_the_disk_is_full_and_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="the disk is full"):
        probe(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("", "the storage root is ''"),
        ("  ", "the storage root is '  '"),
        ("hdfs://name/x", "unknown scheme 'hdfs'; Known: file, gs, s3"),
        ("s4://bucket", "did you mean 's3'"),
        ("s3:/bucket/x", "a URI has '//' behind its scheme"),
        ("s3://", "names no bucket"),
        ("file://host/x", "a file URI has the form file:///folder"),
        ("s3://?region=here", "names no bucket"),
        ("s3://bucket/a?nonsense=1", "unknown option 'nonsense'; Known: endpoint_override"),
        ("s3://bucket/a?endpoint-override=b:9000", "did you mean 'endpoint_override'"),
        ("gs://bucket/a?region=here", "unknown option 'region'; Known: endpoint_override, scheme"),
        ("s3://bucket/a?scheme=ftp", "scheme=ftp; allowed: http or https"),
        ("s3://bucket/a?force_virtual_addressing=1", "force_virtual_addressing=1; allowed: true or false"),
    ],
)
def test_root_that_is_no_address_is_refused(root: str, message: str) -> None:
    with pytest.raises(StorageError) as caught:
        probe(root)
    assert message in str(caught.value)


def test_root_with_credentials_is_refused_without_showing_them() -> None:
    with pytest.raises(StorageError, match="carries credentials") as caught:
        probe("s3://name:word@bucket/folder")
    assert "word" not in str(caught.value)


def test_options_of_an_object_store_stay_behind_its_path(object_store: str) -> None:
    store = ArtifactStore(object_store)
    base, _, query = object_store.partition("?")
    assert store.uri("priors", "aa") == f"{base}/priors/aa?{query}"


def test_address_of_a_name_with_other_letters_is_one_that_pyarrow_and_ray_take(object_store: str) -> None:
    root, key = open_root(object_store), "studies/数据-été/ray"
    _, path = pafs.FileSystem.from_uri(root.uri_of(key))
    assert path == root.path_of(key)
    assert open_root(root.uri_of(key)).path == path
    root.write(f"{key}/state", b"1")
    assert root.below(key).read("state") == b"1"


def test_written_files_follow_the_umask_so_that_others_on_a_shared_disk_can_read(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = ArtifactStore(str(tmp_path)).write_bytes("studies/a/config.yaml", b"")
    finally:
        os.umask(before)
    assert os.stat(path).st_mode & 0o777 == 0o640


def test_deletion_takes_what_killed_writers_of_the_file_left_and_nothing_else(tmp_path: Path) -> None:
    root = open_root(str(tmp_path))
    root.write("state.bin", b"whole")
    for _ in range(2):
        subprocess.run([sys.executable, "-c", KILLED_WRITER, str(tmp_path)], check=False)
    unfinished = [path for path in tmp_path.iterdir() if path.name != "state.bin"]
    assert [path.read_bytes() for path in unfinished] == [b"half of it"] * 2
    neighbour = unfinished[0].with_name(unfinished[0].name.replace("state.bin", "state.bin.old"))
    neighbour.touch()
    root.delete("state.bin")
    assert list(tmp_path.iterdir()) == [neighbour]
    root.delete("state.bin")  # and it needn't be there


def test_root_whose_path_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageAddressError, match="has bytes that aren't text in this locale; rename its folder"):
        open_root(str(tmp_path / "\udcff"))
