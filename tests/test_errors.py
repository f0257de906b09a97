"""Lists in messages."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pandas as pd
import pytest

from dim_ray.cli.main import run_main
from dim_ray.errors import UsageError, listed, nearest
from dim_ray.results import main as results
from dim_ray.store.analysis.selection import only_dataset
from dim_ray.tune import main as tune

MANY = [f"name{number:04}" for number in range(500)]


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
    assert len(shown) < 250


def test_unknown_name_beside_very_many_known_ones_gets_the_nearest_and_a_count():
    said = nearest("nam0400", MANY)
    assert said.startswith("did you mean 'name0400'? Known: name0000, ")
    assert said.endswith(" and 480 more.")


def test_several_datasets_are_counted():
    with pytest.raises(UsageError, match=r"choose one with --dataset: name0000, .* and 480 more\."):
        only_dataset("root", pd.DataFrame({"dataset": MANY}))


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (results, ["list", *MANY]),
        (tune, MANY),
        (tune, ["--ipc", *MANY]),
        (tune, ["--study.name", "/" * 5_000]),
        (tune, ["--study.space", json.dumps({"pool.size": {"values": list(range(2_000)), "wrong": 1}})]),
        (tune, ["--study.space", json.dumps({"pool.size": "x" * 5_000})]),
        (tune, ["--study.warm_start", *MANY, "--study.sampler", "grid"]),
        (tune, ["--evaluation.num_seeds", "x" * 5_000]),
        (tune, ["--evaluation.quirks", "x" * 5_000]),
        (tune, ["--networks.students", "x" * 5_000]),
        (tune, ["--dataset", "x" * 5_000]),
        (tune, ["--config", "x" * 5_000]),
        (tune, ["--" + "x" * 5_000]),
    ],
)
def test_refusal_is_short_however_much_was_given(
    command: Callable[[Sequence[str]], None], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(command, arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert len(said) < 1_000, said
