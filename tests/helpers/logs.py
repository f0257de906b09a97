"""What tests that open a session's log file share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def closed_logs() -> Iterator[None]:
    """Closes the log file of a session, which is the process's."""
    before = logging.getLogger().handlers[:]
    yield
    for handler in [h for h in logging.getLogger().handlers if h not in before]:
        logging.getLogger().removeHandler(handler)
        handler.close()
    logging.captureWarnings(False)
