"""A driver of tests, which builds a small pool and priors on a cluster, and notes who stores what.

    RAY_ADDRESS=... python -c "from tests.helpers.builder import main; main()" STORAGE STUDY SECONDS FILE

It begins when FILE is there, below STORAGE/notes.
Below STORAGE/notes are a line for each training (`trainings`), the log and what the progress display was told.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dim_ray.distributed.build import build_networks
from dim_ray.distributed.cluster.joining import cluster
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress import SilentProgress
from dim_ray.store.artifacts import ArtifactStore
from tests.helpers import tiny
from tests.helpers.small import make_config

POOL_SIZE, CAPACITIES = 1, (6,)


class NotingStore(ArtifactStore):
    """Notes that a network was trained, and then takes its time to store it."""

    def __init__(self, root: str, study: str, seconds: float) -> None:
        super().__init__(root)
        self._study = study
        self._seconds = seconds

    def write(self, kind: str, fingerprint: str, files: Mapping[str, bytes], card: Mapping[str, Any]) -> str:
        line = {"network": f"{kind}/{fingerprint}", "study": self._study, "pid": os.getpid(), "time": time.time()}
        with Path(self.root, "notes", "trainings").open("a") as opened:
            opened.write(json.dumps(line) + "\n")
        time.sleep(self._seconds)
        return super().write(kind, fingerprint, files, card)


@dataclass(frozen=True, kw_only=True)
class NotingWorkspace(Workspace):
    """Has a storage that notes."""

    seconds: float

    @property
    def artifacts(self) -> ArtifactStore:
        return NotingStore(self.config.storage.root, self.study, self.seconds)


class NotingProgress(SilentProgress):
    """Keeps the notes that a person would see."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def advance(self, done: float, note: str = "") -> None:
        with self._path.open("a") as opened:
            opened.write(f"{done:.2f} {note}\n")


def main() -> None:
    """Builds as one study."""
    root, study, seconds, file = sys.argv[1:]
    notes = Path(root, "notes")
    notes.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(filename=notes / f"{study}.log", level=logging.INFO, format="%(created)f %(message)s")
    progress = NotingProgress(notes / f"{study}.progress")
    config = make_config(root)
    work = NotingWorkspace(config=config, dataset=tiny.make_dataset(), study=study, seconds=float(seconds))
    with cluster(config, progress) as placement:
        notes.joinpath(f"{study}.joined").touch()
        while not notes.joinpath(file).exists():
            time.sleep(0.05)
        configs = [config.with_fields({"pool.size": POOL_SIZE, "generator.capacity": one}) for one in CAPACITIES]
        build_networks(work, configs, placement, progress)


def trainings(storage: Path) -> list[dict[str, Any]]:
    """Returns a note of each training, the first one first."""
    path = storage / "notes" / "trainings"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
