"""What a person should know about the storage while a run works: it refuses, and it works again.

    with told(progress.message):
        log.warning("The checkpoint isn't written: %s", error)

Wherever a warning arises, it goes to the log file and to who is told. Under Ray, workers tell the driver's board, and
the driver warns again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["log", "told"]

log = logging.getLogger("dim_ray.storage")
"""Its warnings are for a person; what is below them is for the log file alone."""


@contextmanager
def told(tell: Callable[[str], None]) -> Iterator[None]:
    """Passes the warnings on while the body runs, from any thread."""
    handler = _Teller(tell)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


class _Teller(logging.Handler):
    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(record.getMessage())
