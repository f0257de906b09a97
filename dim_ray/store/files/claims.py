"""Let one process at a time work on something: by a lock on a disk, and on an object store, which has none, by a claim.

    with claimed(open_root("s3://bucket/dim"), "studies/digits/driver", "study 'digits'") as check:
        check()

A claim is a file of its own that says who and since when, and is written again every 15 seconds. Whoever wants one
writes its own, then lists all: alone it has it, otherwise it withdraws. Since stores show a file to every listing that
begins after its write, two never see themselves alone. A claim that wasn't written for a minute by the store's own
clock counts no more. (A conditional put would do the same, but pyarrow has none.)
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from filelock import FileLock, Timeout

from dim_ray.errors import ResourceError, StorageError
from dim_ray.progress.notices import log
from dim_ray.store.files.faults import PAUSES_SECONDS
from dim_ray.store.files.filesystem import Root

__all__ = ["claimed"]

_BUSY = "{} is being run by {}. Wait until it ends, or choose another name with --study."
_LEASE_SECONDS = 60.0  # age at which a claim that isn't written again counts no more
_RENEW_SECONDS = 15.0
_LOOK_SECONDS = 5.0  # between looks at the claim of another process


@contextmanager
def claimed(root: Root, key: str, what: str) -> Iterator[Callable[[], None]]:
    """Hold the lock `key`.lock, or a claim in the folder `key`, and yield what raises if it was lost.

    On an object store it waits while it can't be told whether the holder of a claim is alive.

    Raises:
        ResourceError: Another process has it.
        StorageError: The storage can't be read or written.
    """
    if root.is_local:
        with _locked(root.path_of(f"{key}.lock"), what):
            yield lambda: None
        return
    claim = _Claim(root, key, what)
    claim.acquire()
    thread = threading.Thread(target=claim.keep, name=f"claim of {what}", daemon=True)
    thread.start()
    try:
        yield claim.check
    finally:
        claim.ended.set()
        thread.join()
        with suppress(StorageError):  # it ends by itself
            claim.withdraw()


@contextmanager
def _locked(path: str, what: str) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise ResourceError(_BUSY.format(what, "another process")) from error
    try:
        yield
    finally:
        lock.release()


class _Claim:
    """One process's claim."""

    def __init__(self, root: Root, key: str, what: str) -> None:
        self._root = replace(root, pauses_seconds=PAUSES_SECONDS)
        self._folder = key
        self._key = f"{key}/{uuid.uuid4().hex}.json"
        self._what = what
        self._text = json.dumps(
            {"by": f"{_user()}@{platform.node()}, process {os.getpid()}", "since": f"{datetime.now(UTC):%F %T} UTC"}
        ).encode()
        self._taken_by: str | None = None
        self.ended = threading.Event()

    def acquire(self) -> None:
        """Take the claim, or raise; see `claimed`."""
        seen: dict[str, datetime] = {}
        while True:
            self._root.write(self._key, self._text)
            others = self._others()
            if not others:
                return
            self.withdraw()
            alive = next((key for key, modified in others.items() if seen.get(key, modified) != modified), None)
            if alive is not None:
                raise ResourceError(_BUSY.format(self._what, self._holder(alive)))
            if not seen:
                holder = self._holder(next(iter(others)))
                log.warning(
                    "%s was begun by %s; looking for up to %.0f s if it's alive", self._what, holder, _LEASE_SECONDS
                )
            seen |= others
            time.sleep(_LOOK_SECONDS * random.uniform(0.5, 1.0))  # two that wait don't meet for ever

    def check(self) -> None:
        """Raise a ResourceError if another process has taken the claim while this one couldn't renew it."""
        if self._taken_by is not None:
            raise ResourceError(
                f"{self._what} was taken over by {self._taken_by}, since this process couldn't reach the storage for "
                f"{_LEASE_SECONDS:.0f} s. What it finished is kept."
            )

    def keep(self) -> None:
        """Renew the claim until it has ended."""
        brief = replace(self._root, pauses_seconds=())
        was_deleted = False  # as by one that takes it over
        while not self.ended.wait(_RENEW_SECONDS):
            try:
                was_deleted |= not brief.is_file(self._key)
                brief.write(self._key, self._text)
                if was_deleted and (others := self._others()):
                    time.sleep(_LOOK_SECONDS)  # one that only asks withdraws
                    if left := others.keys() & self._others().keys():
                        self._taken_by = self._holder(next(iter(left)))
                        return
                was_deleted = False
            except StorageError as error:
                log.info("The claim of %s isn't renewed, which is tried again: %s", self._what, error)

    def withdraw(self) -> None:
        """Delete the claim."""
        self._root.delete(self._key)

    def _others(self) -> dict[str, datetime]:
        """Return when each other claim was written last, by key; those that count no more are deleted."""
        there = {self._root.key_of(info.path): info.mtime for info in self._root.children(self._folder)}
        if self._key not in there:  # deleted in this moment, by one that listed an older state
            self._root.write(self._key, self._text)
            return self._others()
        oldest = there.pop(self._key) - timedelta(seconds=_LEASE_SECONDS)
        for key in [key for key, modified in there.items() if modified < oldest]:
            self._root.delete(key)
            del there[key]
        return there

    def _holder(self, key: str) -> str:
        claim = json.loads(self._root.read(key) or b'{"by": "another process", "since": "a moment"}')
        return f"{claim['by']}, since {claim['since']}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return f"user {os.geteuid()}"
