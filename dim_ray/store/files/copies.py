"""Keep a copy of a growing file on an object store, which can't append: every minute, on demand, and at the end.

    with Copy(Path("/tmp/x/optuna.journal"), open_root("s3://bucket/dim"), "studies/digits/optuna.journal.gz") as copy:
        copy.fetch()  # continue the copy that is there

Copies are compressed and end with a whole line. A copy that the storage refuses is tried again a minute later.
"""

from __future__ import annotations

import gzip
import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Self

from dim_ray.errors import StorageError
from dim_ray.progress.notices import log
from dim_ray.store.files.faults import PAUSES_SECONDS
from dim_ray.store.files.filesystem import Root

__all__ = ["Copy"]

_EVERY_SECONDS = 60.0
_LEAST_SECONDS = 10.0  # between two copies
_LAST_PAUSES_SECONDS = PAUSES_SECONDS[:4]


class Copy:
    """Copy a file of lines to a key of a root."""

    def __init__(self, path: Path, root: Root, key: str, every_seconds: float = _EVERY_SECONDS) -> None:
        self._path = path
        self._root = replace(root, pauses_seconds=())
        self._key = key
        self._every_seconds = every_seconds
        self._num_copied = 0
        self._ended, self._is_urgent = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"copies of {path.name}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._is_urgent.set()
        self._thread.join()
        try:
            self.put(_LAST_PAUSES_SECONDS)
        except StorageError as refusal:
            log.warning("The last lines of %s weren't copied: %s", self._path.name, refusal)

    def fetch(self) -> None:
        """Begin the file with the copy that is there, if any; raises StorageError."""
        data = gzip.decompress(self._root.read(self._key) or gzip.compress(b""))
        self._path.write_bytes(data)
        self._num_copied = len(data)

    def hurry(self) -> None:
        """Let the thread copy the file now, or ten seconds after the copy before."""
        self._is_urgent.set()

    def put(self, pauses_seconds: tuple[float, ...] = ()) -> None:
        """Copy the file if it has grown; raises StorageError."""
        if not self._path.exists() or self._path.stat().st_size <= self._num_copied:
            return
        data = self._path.read_bytes()
        data = data[: data.rfind(b"\n") + 1]  # the next line may be half written
        if len(data) > self._num_copied:
            replace(self._root, pauses_seconds=pauses_seconds).write(self._key, gzip.compress(data, mtime=0))
            self._num_copied = len(data)

    def _run(self) -> None:
        level, least = logging.WARNING, min(_LEAST_SECONDS, self._every_seconds)
        while not self._ended.is_set():
            self._is_urgent.wait(self._every_seconds - least)
            self._is_urgent.clear()
            if self._ended.is_set():
                return
            try:
                self.put()
                level = logging.WARNING
            except StorageError as refusal:
                log.log(level, "%s isn't copied, which is tried again: %s", self._path.name, refusal)
                level = logging.INFO  # said once
            self._ended.wait(least)
