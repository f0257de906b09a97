"""A Ray on this machine, and a generator to measure on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dim_ray.core.generator.networks import Generator
from dim_ray.distributed.cluster.joining import cluster
from dim_ray.pipeline.generators import load_module
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress import SilentProgress
from tests.helpers.small import build_networks, distil, make_config, make_work


@pytest.fixture(scope="module")
def slots() -> Iterator[None]:
    """Run Ray."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        with cluster(make_config("unused"), SilentProgress()):
            yield


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with teachers and a prior."""
    work = make_work(tmp_path_factory.mktemp("storage"))
    build_networks(work)
    return work


@pytest.fixture(scope="module")
def generator(work: Workspace) -> Generator:
    """A stored generator."""
    return load_module(work, distil(work))
