"""The tests that start Ray come first, those of whole studies before all: none is left alone with one at the end."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts them; otherwise the order stays."""
    items.sort(key=lambda item: (item.get_closest_marker("ray") is None, "tuning" not in item.path.parts))
