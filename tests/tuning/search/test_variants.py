from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dim_ray.config import Config
from dim_ray.core.data.dataset import Dataset
from dim_ray.pipeline.generators import GENERATOR_FILE, generator_bytes, generator_fingerprint
from dim_ray.pipeline.workspace import Workspace
from tests.helpers.small import SEARCHED, build_networks, distil, make_config, make_work
from tests.helpers.tiny import make_dataset
from tuning.cost import network_keys
from tuning.search.variants import SizeLimit, example_trials, network_variants


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_config(tmp_path)


@pytest.fixture
def dataset() -> Dataset:
    return make_dataset()


def with_study(config: Config, **changes: Any) -> Config:
    return replace(config, study=replace(config.study, **changes))


def variants(config: Config, dataset: Dataset) -> list[Config]:
    return network_variants(config, SizeLimit(config, dataset))


def keys(config: Config, dataset: Dataset, kind: str) -> set[str]:
    """Returns the networks of all variants, of one kind."""
    works = [Workspace(config=own, dataset=dataset, study="tiny") for own in variants(config, dataset)]
    return {key for work in works for key in network_keys(work) if key.startswith(kind)}


def test_every_capacity_has_a_variant_with_the_largest_pool(config: Config, dataset: Dataset) -> None:
    found = variants(config, dataset)
    assert [(own.generator.capacity, own.pool.size) for own in found] == [(6, 2), (8, 2)]


def test_pool_that_is_not_searched_has_its_configured_size(config: Config, dataset: Dataset) -> None:
    [found] = variants(with_study(config, space={"matching.weight": [0.1, 0.2]}), dataset)
    assert found.pool == config.pool


def test_every_pool_size_that_a_condition_names_is_there(config: Config, dataset: Dataset) -> None:
    space = {"pool.size": [1, 4], "pool.epochs": {"values": [7], "when": {"pool.size": [1]}}}
    found = variants(with_study(config, space=space), dataset)
    assert [(own.pool.size, own.pool.epochs) for own in found] == [(1, 7), (4, config.pool.epochs)]


def test_teachers_do_not_depend_on_what_is_searched_of_priors_and_the_other_way_round(
    config: Config, dataset: Dataset
) -> None:
    space = {**SEARCHED, "pool.num_snapshots": [1, 2, 3], "prior.learning_rate": [1e-3, 2e-3]}
    searched = with_study(config, space=space)
    assert len(variants(searched, dataset)) == 12
    assert len(keys(searched, dataset, "teachers")) == 3 * 2
    assert len(keys(searched, dataset, "priors")) == 2 * 2


def test_pool_that_no_trial_can_ask_for_is_not_there(config: Config, dataset: Dataset) -> None:
    space = {
        "matching.augmentation": ["none", "flip"],
        "pool.augmentation": {"values": ["crop", "flip"], "when": {"matching.augmentation": ["flip"]}},
        "prior.beta1": {"values": [0.5], "when": {"matching.augmentation": ["none"]}},
    }
    found = variants(with_study(config, space=space), dataset)
    own = (config.pool.augmentation, config.prior.beta1)
    assert {(one.pool.augmentation, one.prior.beta1) for one in found} == {
        (own[0], 0.5), ("crop", own[1]), ("flip", own[1])
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["none", "logits"])
def test_teachers_are_there_where_some_trials_match(config: Config, dataset: Dataset, kind: Any) -> None:
    config = replace(config, matching=replace(config.matching, kind=kind))
    searched = with_study(config, space={**SEARCHED, "matching.kind": ["none", "logits"]})
    assert len(keys(searched, dataset, "teachers")) == 2


def test_size_that_is_judged_before_is_that_of_the_stored_file(tmp_path: Path) -> None:
    for refinements in ((1,), (0, 2)):
        work = make_work(tmp_path)
        work = replace(
            work, config=replace(work.config, generator=replace(work.config.generator, refinements=refinements))
        )
        build_networks(work)
        distil(work)
        folder = tmp_path / "generators" / generator_fingerprint(work)
        assert generator_bytes(work.config.generator, work.dataset) == (folder / GENERATOR_FILE).stat().st_size


def test_networks_of_generators_that_are_too_large_are_left_out_and_a_person_is_told(
    config: Config, dataset: Dataset
) -> None:
    space = {**SEARCHED, "generator.refinements": [[1], [4]]}
    smallest, largest = (
        generator_bytes(replace(config.generator, capacity=capacity, refinements=depth), dataset)
        for capacity, depth in ((6, (1,)), (8, (4,)))
    )
    limited = with_study(config, space=space, max_generator_bytes=largest - 1)
    limit = SizeLimit(limited, dataset)
    found = [(own.generator.capacity, own.generator.refinements) for own in network_variants(limited, limit)]
    assert (8, (4,)) not in found
    assert (6, (1,)) in found
    assert [(choice["generator.capacity"], choice["generator.refinements"]) for choice in limit.choices()] == [
        (capacity, str(list(depth))) for capacity, depth in found
    ]
    text = str(limit.describe())
    assert text.startswith(f"{4 - len(found)} of the 4 generators of the space are larger than")
    assert f"{smallest:,} (capacity 6)" in text
    assert SizeLimit(with_study(limited, max_generator_bytes=largest), dataset).describe() is None


def test_examples_for_the_cost_of_trials_are_what_can_be_drawn(config: Config, dataset: Dataset) -> None:
    plain = example_trials(config, SizeLimit(config, dataset))
    assert [own.generator.capacity for own in plain].count(6) == len(plain) / 2
    space = {**SEARCHED, "matching.kind": ["logits", "features"], "matching.temperature": {"low": 1.0, "high": 3.0}}
    searched = with_study(config, space=space)
    examples = example_trials(searched, SizeLimit(searched, dataset))
    assert {own.matching.kind for own in examples} == {"logits", "features"}
    assert {own.matching.temperature for own in examples} <= {1.0, 2.0, 3.0}
    small = with_study(searched, max_generator_bytes=generator_bytes(plain[0].generator, dataset))
    assert {own.generator.capacity for own in example_trials(small, SizeLimit(small, dataset))} == {6}
