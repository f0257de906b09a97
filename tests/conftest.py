"""The tests that start Ray come first: where several processes run tests, none is left with one of those at the end."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts them; otherwise the order stays."""
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)
