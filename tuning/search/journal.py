"""Optuna's journal on the driver's disk; for a study on an object store, with a copy there.

with study_journal(artifacts, "studies/digits-0123abcd/optuna.journal") as storage:
    optuna.load_study(storage=storage, study_name="digits-0123abcd")
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend

from dim_ray.store.artifacts import ArtifactStore
from dim_ray.store.files.copies import Copy
from dim_ray.store.files.faults import PAUSES_SECONDS, patiently, storage_errors
from dim_ray.store.files.filesystem import open_root

__all__ = ["open_journal", "study_journal"]


@contextmanager
def study_journal(artifacts: ArtifactStore, key: str) -> Iterator[BaseStorage]:
    """Open a study's journal; on an object store continue its copy `key`.gz.

    The copy that a lost driver leaves lacks at most the trials drawn in the last ten seconds, and the results of the
    last minute. `tuning.search.settling.settle` adds what the rows know and the journal doesn't.
    """
    root = open_root(artifacts.root)
    if root.is_local:
        yield open_journal(Path(root.path_of(key)))
        return
    with TemporaryDirectory(prefix="dim_ray-journal-") as folder:
        path = Path(folder, "optuna.journal")
        with Copy(path, root, f"{key}.gz") as copy:
            copy.fetch()
            yield JournalStorage(_PassingJournal(path, copy.hurry))


def open_journal(path: Path, *, is_lasting: bool = True) -> BaseStorage:
    """Open a journal of a disk; one that needn't survive a power cut isn't flushed to it 11 times per trial."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(_JournalFile(path) if is_lasting else _PassingJournal(path, lambda: None))


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


class _PassingJournal(BaseJournalBackend):
    """Journal of one process, which appends to a file without flushing it to the disk, and tells of drawn trials."""

    def __init__(self, path: Path, on_drawn: Callable[[], None]) -> None:
        self._on_drawn = on_drawn
        self._logs = [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
        self._file = path.open("a", encoding="utf-8")

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return self._logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._file.writelines(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self._file.flush()
        self._logs += logs
        if any("user_attr" in log for log in logs):  # which is written last when a trial is drawn
            self._on_drawn()
