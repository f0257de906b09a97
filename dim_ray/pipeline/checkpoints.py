"""Checkpoints of unfinished stages, below the storage's root.

with checkpointer(work, fingerprint) as saved:
    run_epochs(stage, dataset.train, Ports(checkpointer=saved))
"""

from __future__ import annotations

import time
from dataclasses import replace
from types import TracebackType
from typing import Self

from dim_ray.core.training.checkpoint import dumps_host, host_copy, loads
from dim_ray.core.training.ports import Collective, State
from dim_ray.errors import DivergedError, StorageError
from dim_ray.pipeline.uploads import Encode, Uploads, UploadTimes
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress.notices import log
from dim_ray.store.artifacts import ArtifactStore

__all__ = ["StoredCheckpointer", "checkpoint_key", "checkpointer", "shared_checkpointer"]

_INTERVALS = 5
_TIMES = UploadTimes()


class StoredCheckpointer:
    """A Checkpointer that keeps the state in one file, and writes it in the background.

    `save` takes as long as a copy to the CPU's memory. Writing is retried; if nothing could be written for
    `give_up_seconds` and five intervals, `save` raises a StorageError. As a context manager, it finishes writing if the
    stage was interrupted or failed. `num_sharing` artefacts that are built at once share the time evenly.
    """

    def __init__(
        self,
        artifacts: ArtifactStore,
        key: str,
        every_seconds: float,
        times: UploadTimes = _TIMES,
        *,
        num_sharing: int = 1,
    ) -> None:
        self._artifacts = artifacts
        self._key = key
        self._every_seconds = every_seconds
        self._started = self._last = time.monotonic()
        self._seconds_before = 0.0
        self._num_sharing = num_sharing
        patient = replace(times, give_up_seconds=max(times.give_up_seconds, _INTERVALS * every_seconds))
        self._uploads = Uploads(self._write, f"checkpoint {key}", patient)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:  # `clear` follows
            return
        try:
            self._uploads.finish()
        except StorageError as refusal:
            if isinstance(error, DivergedError):  # its message promises that the last good state is kept
                raise
            log.warning("The last checkpoint is lost; an older one is kept if there was one: %s", refusal)

    def seconds(self) -> float:
        """Return the stage's share of the wall time, in all processes that worked on it."""
        return self._seconds_before + (time.monotonic() - self._started) / self._num_sharing

    def due(self) -> bool:
        return time.monotonic() - self._last >= self._every_seconds

    def save(self, state: State) -> None:
        self._last = time.monotonic()
        meta = {"stage": dict(state.meta), "seconds": self.seconds()}

        def copy() -> Encode:
            copied = host_copy(state.tensors)
            return lambda: dumps_host(copied, meta)

        self._uploads.put(copy)

    def load(self) -> State | None:
        """Read the file, after the last saved state was written.

        Raises:
            ArtifactError: It is truncated, altered or of a newer format.
            StorageError: The last saved state can't be written.
        """
        self._uploads.finish()
        data = self._artifacts.read_bytes(self._key)
        if data is None:
            return None
        tensors, meta = loads(data, origin=self._key)
        self._seconds_before = float(meta["seconds"])
        return State(tensors=tensors, meta=meta["stage"])

    def continue_from(self, state: State, *, seconds: float) -> None:
        """Write a state that another stage left after so many seconds, and wait until it is written."""
        self._seconds_before = seconds
        self.save(state)
        self._uploads.finish()

    def clear(self) -> None:
        self._uploads.cancel()
        self._artifacts.delete(self._key)

    def _write(self, data: bytes) -> None:
        self._artifacts.write_bytes(self._key, data, is_patient=False)  # `Uploads` retries


def checkpoint_key(study: str, fingerprint: str) -> str:
    """Return the file of an unfinished stage's state, relative to the storage's root."""
    return f"studies/{study}/checkpoints/{fingerprint}.safetensors"


def checkpointer(work: Workspace, fingerprint: str, *, num_sharing: int = 1) -> StoredCheckpointer:
    """Return the checkpointer of an artefact that one worker builds, perhaps with others at once."""
    key, every_seconds = checkpoint_key(work.study, fingerprint), work.config.storage.checkpoint_seconds
    return StoredCheckpointer(work.artifacts, key, every_seconds, num_sharing=num_sharing)


def shared_checkpointer(work: Workspace, fingerprint: str, collective: Collective) -> StoredCheckpointer:
    """Return a worker's checkpointer: all load the same state, and only worker 0 saves."""
    kind = StoredCheckpointer if collective.rank == 0 else _LoadOnly
    return kind(work.artifacts, checkpoint_key(work.study, fingerprint), work.config.storage.checkpoint_seconds)


class _LoadOnly(StoredCheckpointer):
    def due(self) -> bool:
        return False

    def save(self, state: State) -> None:
        pass

    def clear(self) -> None:
        pass
