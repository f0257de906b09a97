from __future__ import annotations

from dim_ray.config import DATASETS
from dim_ray.reporting.published import published


def test_figures_of_one_protocol_are_never_among_those_of_the_other() -> None:
    on_the_fly, fixed = published("cifar10", "on_the_fly"), published("cifar10", "fixed")
    assert {line.method.split(",")[0] for line in on_the_fly} == {"DiM"}
    assert not any(line.method.startswith("DiM") for line in fixed)
    assert len(fixed) > 5


def test_every_figure_names_its_source_and_is_a_fraction_of_a_known_data_set() -> None:
    lines = [line for name in DATASETS for protocol in ("on_the_fly", "fixed") for line in published(name, protocol)]
    assert len(lines) == 22
    assert all(line.source for line in lines)
    assert all(0.1 < value < 1 for line in lines for value in line.accuracies.values())
    assert all(list(line.accuracies.values()) == sorted(line.accuracies.values()) for line in lines)


def test_a_data_set_that_nobody_has_published_on_has_none() -> None:
    assert published("digits", "fixed") == []
