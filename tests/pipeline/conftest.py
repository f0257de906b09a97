"""A storage with a distilled generator, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dim_ray.pipeline.workspace import Workspace
from tests.helpers.small import build_networks, distil, make_work


@pytest.fixture(scope="session")
def built_storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage of `make_work`, with teachers, prior and generator; not to be changed."""
    root = tmp_path_factory.mktemp("built")
    work = make_work(root)
    build_networks(work)
    distil(work)
    return root


@pytest.fixture
def built(built_storage: Path, tmp_path: Path) -> Workspace:
    """A workspace on a copy of it."""
    shutil.copytree(built_storage, tmp_path / "storage")
    return make_work(tmp_path / "storage")
