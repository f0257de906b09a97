"""Writes a stage's states while it goes on training, and goes on trying where the storage refuses them.

    uploads = Uploads(write, "checkpoint", UploadTimes())
    uploads.put(copy)     # returns once the state is copied
    uploads.finish()      # it is written

The newest state alone matters: one that comes while another is being written, or waits for its next try, takes the
place of what waits. So at most two states are in memory: the one that is written, and the one that waits.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from dim_ray.errors import StorageError
from dim_ray.progress.notices import log

__all__ = ["Encode", "UploadTimes", "Uploads"]

Encode = Callable[[], bytes]
"""Turns a copy of a state, which it holds, into a file's bytes; called once, in the thread."""


@dataclass(frozen=True, kw_only=True)
class UploadTimes:
    """How patient uploads are."""

    give_up_seconds: float = 600.0
    """How long everything may be refused before `put` says so by an error."""
    pauses_seconds: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 15.0)
    """Between one try and the next; the last one is repeated."""
    last_seconds: float = 45.0
    """How long it's tried once nothing more is to come."""


class Uploads:
    """Hands states to a function that writes them, in a thread that lives while there is something to write.

    The thread isn't a daemon: an interpreter that ends waits for it.

    Args:
        write: Takes a file's bytes; raises StorageError where they are refused.
        what: Is written, for the log and errors.
        times: Of tries and pauses.
    """

    def __init__(self, write: Callable[[bytes], None], what: str, times: UploadTimes) -> None:
        self._write = write
        self._what = what
        self._times = times
        self._changed = threading.Condition()
        self._waiting: Encode | None = None
        self._is_running = False
        self._ends_at = math.inf  # when a refusal is final
        self._refusal: StorageError | None = None  # the latest, since something was written
        self._refused_since = 0.0
        self._defect: Exception | None = None

    def put(self, copy: Callable[[], Encode]) -> None:
        """Takes a state in place of an older one that waits.

        Args:
            copy: Copies the state; called here, once the older one is dropped.

        Raises:
            StorageError: Nothing could be written for `give_up_seconds`; the state is tried nevertheless.
        """
        with self._changed:
            self._raise_defect()
            self._waiting = None
            self._waiting = copy()
            if not self._is_running:
                threading.Thread(target=self._run, name=f"uploads of the {self._what}").start()
                self._is_running = True
            refused_seconds = time.monotonic() - self._refused_since
            if self._refusal is not None and refused_seconds >= self._times.give_up_seconds:
                raise StorageError(
                    f"the {self._what} couldn't be written for {refused_seconds:.0f} s: {self._refusal} An older one "
                    "is kept where there is one: run the same command again to go on."
                ) from self._refusal

    def finish(self) -> None:
        """Waits until what was put is written.

        Raises:
            StorageError: It was refused for `last_seconds` more.
        """
        with self._changed:
            if self._is_running:
                log.info("Waiting until the %s is written.", self._what)
            self._end(time.monotonic() + self._times.last_seconds)
            self._raise_defect()
            if self._refusal is not None:
                raise self._refusal

    def cancel(self) -> None:
        """Drops what waits, and waits for the end of what is being written: nothing is written afterwards."""
        with self._changed:
            self._waiting = None
            self._end(-math.inf)
            self._refusal = self._defect = None

    def _end(self, ends_at: float) -> None:
        """Waits for the thread, whose refusals are final from a time on."""
        self._ends_at = ends_at
        self._changed.notify_all()
        try:
            while self._is_running:
                self._changed.wait()
        except BaseException:  # Ctrl-C: whoever is asked to end a second time tries no more
            self._ends_at = -math.inf
            self._changed.notify_all()
            raise
        self._ends_at = math.inf

    def _run(self) -> None:
        data: bytes | None = None
        num_tries = 0
        while True:
            with self._changed:
                encode, self._waiting = self._waiting, None
                if encode is None and data is None:
                    self._is_running = False
                    self._changed.notify_all()
                    return
            try:
                if encode is not None:
                    data = None  # an older state's, which would be a third one in memory
                    data = encode()
                    encode = None
                assert data is not None
                self._write(data)
                data, num_tries = None, 0
                self._accepted()
            except StorageError as error:
                if not self._refused(error, num_tries):
                    data = None
                num_tries += 1
            except Exception as error:  # shown by whoever comes next: a thread's own traceback is lost
                data = None
                with self._changed:
                    self._defect = error

    def _accepted(self) -> None:
        with self._changed:
            if self._refusal is not None:
                seconds = time.monotonic() - self._refused_since
                log.warning("The %s is written again, after %.0f s in which the storage refused.", self._what, seconds)
            self._refusal = None

    def _refused(self, error: StorageError, num_tries: int) -> bool:
        """Pauses before the next try; returns whether there is one."""
        with self._changed:
            now = time.monotonic()
            if self._refusal is None:
                self._refused_since = now
                log.warning("Training goes on without its checkpoint, which is tried again: %s", error)
            self._refusal = error
            pauses = self._times.pauses_seconds
            pause_seconds = pauses[min(num_tries, len(pauses) - 1)]
            if now < self._ends_at:
                self._changed.wait(min(pause_seconds, self._ends_at - now))
            if self._ends_at == math.inf and not threading.main_thread().is_alive():  # the interpreter waits to end
                self._ends_at = now + self._times.last_seconds
            return time.monotonic() < self._ends_at

    def _raise_defect(self) -> None:
        if self._defect is not None:
            defect, self._defect = self._defect, None
            raise defect
