"""Optuna's journal on the study's storage: a file, or one object.

storage = open_journal(artifacts, "studies/digits-0123abcd/optuna.journal")
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend

from dim_ray.store.artifacts import ArtifactStore
from dim_ray.store.files.faults import PAUSES_SECONDS, patiently, storage_errors
from dim_ray.store.files.filesystem import open_root

__all__ = ["open_journal"]


def open_journal(artifacts: ArtifactStore, key: str) -> BaseStorage:
    """Open Optuna's journal: a file on a disk, or one object that is rewritten as a whole."""
    root = open_root(artifacts.root)
    if not root.is_local:
        return JournalStorage(_StoredJournal(artifacts, key))
    path = Path(root.path_of(key))
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(_JournalFile(path))


class _JournalFile(JournalFileBackend):
    """Journal file that never keeps part of a line, and waits while the disk is full; for one writer."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        size_bytes = self._path.stat().st_size

        def append() -> None:
            try:
                super(_JournalFile, self).append_logs(logs)
            except OSError:
                # Otherwise the next line would follow a part of this one, and the journal would be unreadable.
                os.truncate(self._path, size_bytes)
                raise

        with storage_errors("write", str(self._path)):
            patiently(append, PAUSES_SECONDS, f"write {self._path}")


class _StoredJournal(BaseJournalBackend):
    """Journal as one object; its only writer is the driver."""

    def __init__(self, artifacts: ArtifactStore, key: str) -> None:
        self._artifacts = artifacts
        self._key = key
        self._lines = (artifacts.read_bytes(key) or b"").splitlines()

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._lines[log_number_from:]]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = self._lines + [json.dumps(log, separators=(",", ":")).encode() for log in logs]
        self._artifacts.write_bytes(self._key, b"\n".join(lines) + b"\n")
        self._lines = lines
