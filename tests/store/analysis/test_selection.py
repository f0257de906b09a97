"""Which generator is best, out of the rows of a storage."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest

from dim_ray.errors import StorageError
from dim_ray.store.analysis.selection import summarise, terms, usual_ipc
from dim_ray.store.reader import Reader
from dim_ray.store.writer import Writer
from tests.helpers.made_rows import evaluation, real_evaluation, trial


def test_best_generator_has_the_highest_mean_validation_accuracy_and_not_the_highest_test_accuracy(root: str) -> None:
    Writer(root).append_evaluations(
        [
            evaluation(generator=generator, seed=seed, validation_accuracy=validation, accuracy=test)
            for generator, measured in {
                "steady": [(0.90, 0.5), (0.90, 0.5), (0.90, 0.5)],
                "lucky-once": [(0.99, 0.5), (0.80, 0.5), (0.80, 0.5)],
                "good-on-test": [(0.10, 0.99), (0.10, 0.99), (0.10, 0.99)],
            }.items()
            for seed, (validation, test) in enumerate(measured)
        ]
        + [real_evaluation(validation_accuracy=1.0)]
    )
    assert Reader(root).best_cell(dataset="digits", ipc=10)["generator"] == "steady"


def test_best_generator_is_sought_within_ipc_protocol_and_architecture(root: str) -> None:
    Writer(root).append_evaluations(
        [
            evaluation(generator="at-ten"),
            evaluation(generator="at-one", ipc=1),
            evaluation(generator="fixed", protocol="fixed"),
            evaluation(generator="resnet", architecture="resnet10"),
        ]
    )
    reader = Reader(root)
    assert reader.best_cell(dataset="digits", ipc=1)["generator"] == "at-one"
    assert reader.best_cell(dataset="digits", ipc=10, protocol="fixed")["generator"] == "fixed"
    assert reader.best_cell(dataset="digits", ipc=10, architecture="resnet10")["generator"] == "resnet"


def test_best_generator_compares_on_the_architecture_that_most_generators_have(root: str) -> None:
    Writer(root).append_evaluations(
        [
            evaluation(generator="old", validation_accuracy=0.80),
            evaluation(generator="new", validation_accuracy=0.85),
            evaluation(generator="old", architecture="resnet18", validation_accuracy=0.99),
        ]
    )
    assert Reader(root).best_cell(dataset="digits", ipc=10)["generator"] == "new"


@pytest.mark.parametrize(
    "longer", [{"budget_fingerprint": "long", "optimiser_steps": 40_000}, {"data_fingerprint": "other images"}]
)
def test_one_more_evaluation_on_other_terms_does_not_change_the_best_generator(
    root: str, longer: dict[str, Any]
) -> None:
    Writer(root).append_evaluations(
        [
            evaluation(generator="better", validation_accuracy=0.90),
            evaluation(generator="worse", validation_accuracy=0.85),
            evaluation(generator="worse", validation_accuracy=0.95, **longer),
        ]
    )
    assert Reader(root).best_cell(dataset="digits", ipc=10)["generator"] == "better"


@pytest.mark.parametrize(("day", "best"), [(1, "short"), (3, "long")])
def test_best_generator_is_sought_at_the_latest_of_terms_that_as_many_generators_share(
    root: str, day: int, best: str
) -> None:
    at_short = {"created_at": datetime(2026, 1, 2, tzinfo=UTC)}
    at_long = {"created_at": datetime(2026, 1, day, tzinfo=UTC), "budget_fingerprint": "long"}
    Writer(root).append_evaluations(
        [
            evaluation(generator="short", validation_accuracy=0.90, **at_short),
            evaluation(generator="long", validation_accuracy=0.80, **at_short),
            evaluation(generator="short", validation_accuracy=0.91, **at_long),
            evaluation(generator="long", validation_accuracy=0.99, **at_long),
        ]
    )
    assert Reader(root).best_cell(dataset="digits", ipc=10)["generator"] == best


@pytest.mark.parametrize(
    ("ipcs", "usual"),
    [((1, 10, 50), 10), ((1, 50), 50), ((), 10)],
)
def test_usual_ipc_is_that_of_the_default_selection_else_the_largest(
    root: str, ipcs: tuple[int, ...], usual: int
) -> None:
    Writer(root).append_evaluations(
        [
            *(evaluation(ipc=ipc) for ipc in ipcs),
            evaluation(ipc=100, dataset="mnist"),
            evaluation(ipc=100, protocol="fixed"),
            real_evaluation(ipc=100, protocol="on_the_fly"),
        ]
    )
    assert usual_ipc(Reader(root).evaluations(), dataset="digits") == usual


def test_best_generator_of_an_empty_storage_says_what_to_run(root: str) -> None:
    with pytest.raises(StorageError, match=r"no evaluations under .*: run python -m dim_ray.tune, or"):
        Reader(root).best_cell(dataset="digits", ipc=10)


def test_best_generator_says_what_is_there_instead(root: str) -> None:
    Writer(root).append_evaluations([evaluation(), evaluation(ipc=50), real_evaluation(dataset="mnist")])
    with pytest.raises(StorageError) as caught:
        Reader(root).best_cell(dataset="cifar10", ipc=10)
    assert "'cifar10' at IPC 10" in str(caught.value)
    assert "there is digits (IPC 10, 50; on_the_fly; convnet3)." in str(caught.value)


@pytest.mark.parametrize(
    "unusual",
    [
        {"quirks": "best_of_tests", "preset": "custom"},
        {"labels": "soft", "labeller": "eeee000011112222"},
        {"candidates": 4, "labeller": "eeee000011112222"},
    ],
)
def test_rows_with_quirks_or_the_help_of_teachers_choose_no_generator(root: str, unusual: dict[str, Any]) -> None:
    late = {"created_at": datetime(2099, 1, 1, tzinfo=UTC), **unusual}
    Writer(root).append_evaluations(
        [
            evaluation(generator="better", validation_accuracy=0.90),
            evaluation(generator="worse", validation_accuracy=0.80),
            evaluation(generator="better", validation_accuracy=0.10, **late),
            evaluation(generator="worse", validation_accuracy=0.99, **late),
            evaluation(generator="worse", ipc=50, **late),
        ]
    )
    assert Reader(root).best_cell(dataset="digits", ipc=10)["generator"] == "better"
    assert usual_ipc(Reader(root).evaluations(), dataset="digits") == 10
    with pytest.raises(StorageError, match=r"no generator was evaluated on 'digits' at IPC 50"):
        Reader(root).best_cell(dataset="digits", ipc=50)


def test_rows_that_choose_no_generator_say_what_to_run(root: str) -> None:
    Writer(root).append_evaluations([evaluation(quirks="best_of_tests", preset="custom")])
    with pytest.raises(StorageError, match=r"quirks or the help of teachers, which don't choose a generator: run"):
        Reader(root).best_cell(dataset="digits", ipc=10)


def test_quirks_labels_and_their_teachers_are_cells_of_their_own(root: str) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"quirks": "best_of_tests+extra_batch", "preset": "custom"},
        {"labels": "soft", "labeller": "eeee000011112222"},
        {"labels": "soft", "labeller": "ffff000011112222"},
        {"candidates": 4, "labeller": "ffff000011112222"},
    ]
    Writer(root).append_evaluations([evaluation(**change) for change in changes])
    cells = summarise(Reader(root).evaluations())
    assert list(cells["n"]) == [1, 1, 1, 1, 1]
    assert sorted(terms(cell) for cell in cells.to_dict("records")) == [
        "",
        "best_of_tests + extra_batch",
        "one of 4 candidates",
        "soft labels",
        "soft labels",
    ]


def test_summary_has_a_row_for_each_cell_and_the_latest_of_a_seed_measured_twice(root: str) -> None:
    Writer(root).append_evaluations([evaluation(seed=s, accuracy=a) for s, a in enumerate([0.1, 0.8, 1.0])])
    Writer(root).append_evaluations([evaluation(seed=0, accuracy=0.6, code_version="0.2.0"), real_evaluation()])
    cells = summarise(Reader(root).evaluations()).set_index("protocol")
    assert cells.loc["on_the_fly", ["mean", "std", "n"]].to_list() == pytest.approx([0.8, 0.2, 3])
    assert cells.loc["real_fixed", "n"] == 1
    assert pd.isna(cells.loc["real_fixed", "std"])


# Limits of size and cost


def test_best_within_a_size_leaves_out_what_is_larger(root: str) -> None:
    Writer(root).append_evaluations(
        [
            evaluation(generator="large", validation_accuracy=0.95, stored_bytes=2_000),
            evaluation(generator="small", validation_accuracy=0.80, stored_bytes=500),
            evaluation(generator="middle", validation_accuracy=0.90, stored_bytes=1_000),
        ]
    )
    best = Reader(root).best(dataset="digits", ipc=10, max_bytes=1_000)
    assert list(best["generator"]) == ["middle", "small"]
    assert list(Reader(root).best(dataset="digits", ipc=10)["generator"]) == ["large", "middle", "small"]
    with pytest.raises(StorageError, match=r"max_bytes is 400; .* the least is 500: allow more"):
        Reader(root).best(dataset="digits", ipc=10, max_bytes=400)


def test_best_within_a_cost_asks_the_trials_and_leaves_out_unknown_costs(root: str) -> None:
    names = ("dear", "cheap", "found again", "unknown")
    rows = [evaluation(generator=name, validation_accuracy=1 - i / 10) for i, name in enumerate(names)]
    Writer(root).append_evaluations(rows)
    costs = [("dear", 90.0), ("cheap", 10.0), ("found again", 80.0), ("found again", 1.0)]
    for number, (name, seconds) in enumerate(costs):
        Writer(root).append_trial(trial(number=number, generator=name, device_seconds=seconds))
    best = Reader(root).best(dataset="digits", ipc=10, max_device_seconds=50)
    assert list(best["generator"]) == ["cheap"]
    with pytest.raises(StorageError, match=r"max_device_seconds is 5; .* the least is 10: allow more"):
        Reader(root).best(dataset="digits", ipc=10, max_device_seconds=5)


def test_best_within_a_cost_where_none_is_known_says_so(root: str) -> None:
    Writer(root).append_evaluations([evaluation()])
    with pytest.raises(StorageError, match="no generator's is known"):
        Reader(root).best(dataset="digits", ipc=10, max_device_seconds=5)
