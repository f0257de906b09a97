"""The tests that start Ray come first, those of whole studies before all: none is left alone with one at the end.

Where tests run side by side, each process computes with one thread: two of them with a thread a core each take turns at
waiting for one another, and take many times as long.
"""

from __future__ import annotations

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before anything imports PyTorch; processes that tests start inherit it
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts them; otherwise the order stays."""
    items.sort(key=lambda item: (item.get_closest_marker("ray") is None, "tuning" not in item.path.parts))
