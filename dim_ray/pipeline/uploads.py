"""Write a stage's states in the background, with retries.

    uploads = Uploads(write, "checkpoint", UploadTimes())
    uploads.put(copy)     # returns once the state is copied
    uploads.finish()      # returns once it is written

Only the newest state matters: a new one replaces the one that waits. So at most two are in memory.
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
"""Function that encodes its copy of a state; called once, in the thread."""


@dataclass(frozen=True, kw_only=True)
class UploadTimes:
    """Patience of uploads."""

    give_up_seconds: float = 600.0
    """Time without a successful write after which `put` fails."""
    pauses_seconds: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 15.0)
    """Pauses between tries; the last one repeats."""
    last_seconds: float = 45.0
    """Time for more tries after the last state."""


class Uploads:
    """Writes states in a thread that lives while there is something to write; the interpreter waits for it at exit."""

    def __init__(self, write: Callable[[bytes], None], what: str, times: UploadTimes) -> None:
        self._write = write
        self._what = what
        self._times = times
        self._changed = threading.Condition()
        self._waiting: Encode | None = None
        self._is_running = False
        self._ends_at = math.inf  # when a refusal becomes final
        self._refusal: StorageError | None = None  # the latest since the last successful write
        self._refused_since = 0.0
        self._defect: Exception | None = None

    def put(self, copy: Callable[[], Encode]) -> None:
        """Copy a state and queue it, in place of an older one that waits and is dropped before.

        Raises:
            StorageError: Nothing could be written for `give_up_seconds`; the state is still tried.
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
                    "is kept if there was one: run the same command again to continue."
                ) from self._refusal

    def finish(self) -> None:
        """Wait until the last state is written.

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
        """Drop the state that waits, and wait for a write in progress: nothing is written afterwards."""
        with self._changed:
            self._waiting = None
            self._end(-math.inf)
            self._refusal = self._defect = None

    def _end(self, ends_at: float) -> None:
        """Wait for the thread; refusals are final from `ends_at` on."""
        self._ends_at = ends_at
        self._changed.notify_all()
        try:
            while self._is_running:
                self._changed.wait()
        except BaseException:  # Ctrl-C while waiting: stop trying
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
                    data = None  # an older state would be a third one in memory
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
            except Exception as error:  # raised by the next call: a thread's traceback would be lost
                data = None
                with self._changed:
                    self._defect = error

    def _accepted(self) -> None:
        with self._changed:
            if self._refusal is not None:
                seconds = time.monotonic() - self._refused_since
                log.warning("The %s is written again, after the storage refused it for %.0f s.", self._what, seconds)
            self._refusal = None

    def _refused(self, error: StorageError, num_tries: int) -> bool:
        """Pause before the next try, and return whether there is one."""
        with self._changed:
            now = time.monotonic()
            if self._refusal is None:
                self._refused_since = now
                log.warning("Training continues without its checkpoint, which is tried again: %s", error)
            self._refusal = error
            pauses = self._times.pauses_seconds
            pause_seconds = pauses[min(num_tries, len(pauses) - 1)]
            if now < self._ends_at:
                self._changed.wait(min(pause_seconds, self._ends_at - now))
            if self._ends_at == math.inf and not threading.main_thread().is_alive():  # the interpreter waits to exit
                self._ends_at = now + self._times.last_seconds
            return time.monotonic() < self._ends_at

    def _raise_defect(self) -> None:
        if self._defect is not None:
            defect, self._defect = self._defect, None
            raise defect
