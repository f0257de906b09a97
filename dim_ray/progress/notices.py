"""Warnings about the storage for the person who watches a run: it fails, and it works again.

    with told(progress.message):
        log.warning("The checkpoint isn't written: %s", error)

A warning goes to the log file and to the display. Under Ray, workers report to the driver's board, and the driver logs
the warning again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["log", "told"]

log = logging.getLogger("dim_ray.storage")
"""Warnings are shown to the user; lower levels go only to the log file."""


@contextmanager
def told(tell: Callable[[str], None]) -> Iterator[None]:
    """Call `tell` with each warning of any thread while the body runs."""
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
