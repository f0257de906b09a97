"""What tests that open a session's log file share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def closed_logs() -> Iterator[None]:
    """Close the log file of a session, which is the process's, and restore the levels."""
    logging.captureWarnings(False)  # a test before may have left it on, and pytest taken its hook away
    before = logging.getLogger().handlers[:]
    levels = {name: logging.getLogger(name).level for name in ("dim_ray", "tuning")}
    yield
    for handler in [h for h in logging.getLogger().handlers if h not in before]:
        logging.getLogger().removeHandler(handler)
        handler.close()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(False)
