"""Where unfinished stages keep their state.

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
    """A Checkpointer that keeps the state as one file below the storage's root, and writes it while training goes on.

    `save` takes as long as a copy to the CPU's memory. A storage that refuses is tried again meanwhile; where nothing
    could be written for `give_up_seconds`, and for five intervals, `save` raises a StorageError.

    As a context, it ends by writing what was saved where the stage was interrupted or failed:

        with checkpointer(work, identity) as saved:
            run_epochs(stage, work.dataset.train, Ports(checkpointer=saved))

    Args:
        artifacts: The storage.
        key: The file, relative to the root.
        every_seconds: How often a save is due; the first one this long after the start.
        times: Of tries and pauses.
        num_sharing: Artefacts that are built at once, this one included: the time from now on is divided evenly.
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
        """Needs nothing."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Waits until what was saved is written, where an exception ends the stage; `clear` follows otherwise.

        Raises:
            StorageError: It's refused, and training diverged, which says that the last good state is kept.
        """
        if error is None:
            return
        try:
            self._uploads.finish()
        except StorageError as refusal:
            if isinstance(error, DivergedError):
                raise
            log.warning("The last checkpoint is lost, and an older one kept where there is one: %s", refusal)

    def seconds(self) -> float:
        """Returns the wall time that the stage has taken, in all the processes that worked on its state: its share."""
        return self._seconds_before + (time.monotonic() - self._started) / self._num_sharing

    def due(self) -> bool:
        """Whether `every_seconds` have passed since the last save was begun."""
        return time.monotonic() - self._last >= self._every_seconds

    def save(self, state: State) -> None:
        """Copies the state, and hands it to the thread that replaces the file.

        Raises:
            StorageError: The storage has refused for too long.
        """
        self._last = time.monotonic()
        meta = {"stage": dict(state.meta), "seconds": self.seconds()}

        def copy() -> Encode:
            copied = host_copy(state.tensors)
            return lambda: dumps_host(copied, meta)

        self._uploads.put(copy)

    def load(self) -> State | None:
        """Reads the file, once what was saved is in it.

        Raises:
            ArtifactError: It is truncated, altered or of a newer format.
            StorageError: What was saved can't be written.
        """
        self._uploads.finish()
        data = self._artifacts.read_bytes(self._key)
        if data is None:
            return None
        tensors, meta = loads(data, origin=self._key)
        self._seconds_before = float(meta["seconds"])
        return State(tensors=tensors, meta=meta["stage"])

    def clear(self) -> None:
        """Removes the file; what was saved and isn't written yet never is."""
        self._uploads.cancel()
        self._artifacts.delete(self._key)

    def _write(self, data: bytes) -> None:
        self._artifacts.write_bytes(self._key, data, is_patient=False)  # the uploads have a patience of their own


def checkpoint_key(study: str, identity: str) -> str:
    """Returns where the state of an unfinished stage is kept, relative to the storage's root."""
    return f"studies/{study}/checkpoints/{identity}.safetensors"


def checkpointer(work: Workspace, identity: str, *, num_sharing: int = 1) -> StoredCheckpointer:
    """Returns the checkpointer of one artefact that is being built by one worker, alone or with others at once."""
    key, every_seconds = checkpoint_key(work.study, identity), work.config.storage.checkpoint_seconds
    return StoredCheckpointer(work.artifacts, key, every_seconds, num_sharing=num_sharing)


def shared_checkpointer(work: Workspace, identity: str, collective: Collective) -> StoredCheckpointer:
    """Returns each worker's checkpointer: all load the same state; worker 0 alone saves."""
    kind = StoredCheckpointer if collective.rank == 0 else _LoadOnly
    return kind(work.artifacts, checkpoint_key(work.study, identity), work.config.storage.checkpoint_seconds)


class _LoadOnly(StoredCheckpointer):
    def due(self) -> bool:
        return False

    def save(self, state: State) -> None:
        pass

    def clear(self) -> None:
        pass
