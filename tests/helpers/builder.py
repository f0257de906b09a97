"""A driver that builds a small pool and a prior on a cluster, at the same moment as another driver.

    RAY_ADDRESS=... python -c "from tests.helpers.builder import main; main()" STORAGE STUDY OTHER_STUDY

A network that one driver has trained is stored once the other driver has trained it too.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dim_ray.distributed.build import build_networks
from dim_ray.distributed.cluster.joining import cluster
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress import SilentProgress
from dim_ray.store.artifacts import ArtifactStore
from tests.helpers import tiny
from tests.helpers.small import make_config

POOL_SIZE = 2
_SECONDS = 240.0


class MeetingStore(ArtifactStore):
    """A store in which two studies store each network at the same moment."""

    def __init__(self, root: str, study: str, other: str) -> None:
        super().__init__(root)
        self._study = study
        self._other = other

    def write(self, kind: str, fingerprint: str, files: Mapping[str, bytes], card: Mapping[str, Any]) -> str:
        folder, until = Path(self.root, "trained", fingerprint), time.monotonic() + _SECONDS
        folder.mkdir(parents=True, exist_ok=True)
        folder.joinpath(self._study).touch()
        while not folder.joinpath(self._other).exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        return super().write(kind, fingerprint, files, card)


class MeetingWorkspace(Workspace):
    """A workspace of one of two studies that meet."""

    @property
    def artifacts(self) -> ArtifactStore:
        own, _, other = self.study.partition("-and-")
        return MeetingStore(self.config.storage.root, own, other)


def main() -> None:
    """Build as one study."""
    root, study, other = sys.argv[1:]
    config = make_config(root).with_fields({"pool.size": POOL_SIZE})
    work = MeetingWorkspace(config=config, dataset=tiny.make_dataset(), study=f"{study}-and-{other}")
    with cluster(config, SilentProgress()) as placement:
        build_networks(work, [config], placement, SilentProgress())
