"""Claims that are held while something is built, and jobs that wait for what others hold.

    claims = open_claims("mnist-16")                        # in the driver; it's sent to its jobs
    with hold(claims, {"teacher 3": key}) as others:        # in the process that builds
        if not others:
            build()

Where the table doesn't answer, nothing is held by others: builds go on, and two may make the same.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayError

from dim_ray.distributed.claims import ask

__all__ = ["Claims", "Held", "Waits", "hold", "open_claims"]

_SECONDS_BETWEEN_RENEWALS = 4.0  # three may be lost before a lease ends
_SECONDS_BETWEEN_LOOKS = 1.0
_LARGEST_NOTE = 3  # networks of a study that are named

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Claims:
    """Who claims; a driver and its jobs are one, so that a job that is started again takes over its own claims."""

    holder: str
    """Like nobody else's."""
    study: str
    """Is told to others."""
    ask: Callable[..., Any] = ask
    """Asks the table."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """What another holds."""

    what: str
    """For people, for example ``teacher 3``."""
    key: str
    """In the table."""
    study: str
    """The one that builds it."""


def open_claims(study: str) -> Claims:
    """Returns a new claimant."""
    return Claims(holder=uuid.uuid4().hex, study=study)


@contextmanager
def hold(claims: Claims | None, keys: Mapping[str, str]) -> Iterator[list[Held]]:
    """Claims what will be built, and holds it until the body has ended; renewed by a thread of this process.

    Args:
        claims: Who claims. Without, nothing is claimed and all is free.
        keys: By what is built.

    Yields:
        What others hold; the rest is this claimant's.
    """
    if claims is None:
        yield []
        return
    renewal = _Renewal(claims, list(keys.values()))
    renewal.start()
    try:
        renewal.answered.wait()
        yield [Held(what=w, key=k, study=renewal.others[k]) for w, k in keys.items() if k in renewal.others]
    finally:
        renewal.ended.set()
        renewal.join()


class Waits:
    """Jobs that wait until others have built something.

    Args:
        claims: Who waits.
        clock: Seconds that only grow.
    """

    def __init__(self, claims: Claims | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._claims = claims
        self._clock = clock
        self._jobs: dict[str, tuple[Sequence[Held], float]] = {}
        self._looked_at = clock()

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def add(self, job: str, held: Sequence[Held]) -> None:
        """Takes a job, and what it waits for."""
        self._jobs[job] = held, self._clock()
        log.info("Now %s.", _sentence(held))

    def take_free(self) -> list[str]:
        """Returns the jobs for which something has become free, each once. Asks once a second, however often called."""
        now = self._clock()
        if not self._jobs or now - self._looked_at < _SECONDS_BETWEEN_LOOKS:
            return []
        self._looked_at = now
        still = self._still_held(held.key for waited, _ in self._jobs.values() for held in waited)
        free = [job for job, (waited, _) in self._jobs.items() if any(held.key not in still for held in waited)]
        for job in free:
            waited, since = self._jobs.pop(job)
            log.info("Waited %.0f s for %s.", now - since, _names(waited))
        return free

    def note(self) -> str:
        """Says what is waited for."""
        return _sentence([held for waited, _ in self._jobs.values() for held in waited]) if self._jobs else ""

    def _still_held(self, keys: Iterable[str]) -> Mapping[str, str]:
        if self._claims is None:
            return {}
        try:
            still: dict[str, str] = self._claims.ask("held", list(keys), self._claims.holder)
        except RayError as error:
            _warn(error)
            return {}
        return still


class _Renewal(threading.Thread):
    """Claims, renews and releases.

    All of it is a thread's: Ray lends a job's cores to others while its main thread waits for an answer, and the job
    that they start stays beside this one.
    """

    def __init__(self, claims: Claims, keys: Sequence[str]) -> None:
        super().__init__(name="claims", daemon=True)
        self.others: dict[str, str] = {}
        self.answered = threading.Event()
        self.ended = threading.Event()
        self._claims = claims
        self._keys = keys

    def run(self) -> None:
        try:
            self.others = self._claim(self._keys)
        finally:
            self.answered.set()
        own = [key for key in self._keys if key not in self.others]
        if not own:
            return
        while not self.ended.wait(_SECONDS_BETWEEN_RENEWALS):
            self._claim(own)
        with suppress(RayError):  # it ends by itself
            self._claims.ask("release", own, self._claims.holder)

    def _claim(self, keys: Sequence[str]) -> dict[str, str]:
        try:
            others: dict[str, str] = self._claims.ask("claim", keys, self._claims.holder, self._claims.study)
        except RayError as error:
            _warn(error)
            return {}
        return others


def _sentence(held: Iterable[Held]) -> str:
    by_study: dict[str, list[Held]] = {}
    for one in held:
        by_study.setdefault(one.study, []).append(one)
    parts = [f"waiting for {_names(own)}, which study {study} builds" for study, own in by_study.items()]
    return "; ".join(parts)


def _names(held: Sequence[Held]) -> str:
    names = [one.what for one in held]
    more = [f"{len(names) - _LARGEST_NOTE} more"] if len(names) > _LARGEST_NOTE else []
    *most, last = names[:_LARGEST_NOTE] + more
    return f"{', '.join(most)} and {last}" if most else last


def _warn(error: Exception) -> None:
    log.warning("Claims can't be asked (%s); what this study builds, another may build too.", error)
