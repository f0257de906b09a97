from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.search_driver import SMALL, Driver
from tests.store.conftest import object_store  # noqa: F401  # a fixture


@pytest.fixture(params=["folder", "object store"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path)
    return str(request.getfixturevalue("object_store"))


@pytest.fixture
def driver(root: str) -> Driver:
    return Driver(root)


@pytest.fixture
def small(root: str) -> Driver:
    return Driver(root, changes=SMALL)
