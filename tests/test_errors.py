"""Lists in messages."""

from __future__ import annotations

import pytest

from dim_ray.errors import listed


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["a"], "a"),
        (["a", "b", "c", "d", "e"], "a, b, c, d, e"),
        (["a", "b", "c", "d", "e", "f"], "a, b, c, d, e and 1 more"),
        (range(2_000), "0, 1, 2, 3, 4 and 1,995 more"),
        ((name for name in "xy"), "x, y"),
    ],
)
def test_a_message_lists_the_first_few_names_and_counts_the_others(names, text):
    assert listed(names) == text


def test_a_caller_chooses_how_many_are_shown():
    assert listed("abcd", most=2) == "a, b and 2 more"


def test_a_very_long_name_keeps_its_two_ends():
    name = "start" + "x" * 10_000 + "end"

    shown = listed([name, "b"])

    assert shown.startswith("startx")
    assert "..." in shown
    assert shown.endswith("xend, b")
    assert len(shown) < 150
