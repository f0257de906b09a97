"""Two kinds of root: a folder, and an object store that has no rename and no folders of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import s3

_NOBODY = 65534


@pytest.fixture
def object_store(monkeypatch: pytest.MonkeyPatch) -> str:
    """An s3:// root in a bucket of its own, over HTTP."""
    for name, value in s3.CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return s3.uri_at(s3.server_port(), f"{s3.new_bucket()}/store")


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
