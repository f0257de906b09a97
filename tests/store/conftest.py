"""Two kinds of root: a folder, and an object store that has no rename and no folders of its own."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from dim_ray.store import filesystem

_NOBODY = 65534


@pytest.fixture
def object_store(monkeypatch: pytest.MonkeyPatch) -> str:
    """An s3:// root whose bucket is in memory."""
    memory = pafs.PyFileSystem(pafs.FSSpecHandler(MemoryFileSystem()))
    bucket = f"bucket-{uuid.uuid4().hex}"

    def connect(uri: str) -> tuple[pafs.FileSystem, str]:
        return memory, "/" + uri.partition("://")[2].partition("?")[0]  # as this file system lists its files

    monkeypatch.setattr(filesystem, "_connect", connect)
    return f"s3://{bucket}/store?region=here"


@pytest.fixture(params=["folder", "object store"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "storage")
    return str(request.getfixturevalue("object_store"))


@pytest.fixture
def closed_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that may not be written; root, who may write anywhere, is nobody for the test."""
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    user = os.geteuid()
    if user == 0:
        os.seteuid(_NOBODY)
    try:
        yield folder
    finally:
        os.seteuid(user)
