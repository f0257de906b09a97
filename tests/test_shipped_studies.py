"""Every configuration that is shipped can be used by its name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dim_ray.cli.flags import DEFAULT_STUDY, DISTILL_FLAGS, add_local, shipped_studies
from dim_ray.cli.main import parse
from dim_ray.cli.recipes import read_shipped
from dim_ray.config import DATASETS, IMAGE_SIZES, Config
from dim_ray.core.data.checks import check_evaluation, check_training
from tests.helpers.tiny import make_dataset
from tuning.search.samplers import make_sampler
from tuning.search.schedulers import make_scheduler
from tuning.search.space import check_search


def read(name: str) -> Config:
    argv = ["--config", name]
    program = "python -m dim_ray.distill"
    return parse(argv, program=program, description="", flags=DISTILL_FLAGS, defaults=DEFAULT_STUDY, extra=add_local)[0]


@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_configuration_fits_the_data_that_it_names(name: str) -> None:
    config = read(name)
    assert config != Config()
    dataset = make_dataset(num_classes=10, per_class=130, channels=1, size=8)
    check_training(config, dataset)
    check_evaluation(config, dataset)
    check_search(config, dataset)
    make_sampler(config, num_drawn=0)
    make_scheduler(config, len(dataset.train))


@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_configuration_begins_with_a_sentence_about_itself(name: str) -> None:
    assert shipped_studies()[name].read_text().startswith("# ")


def test_every_study_that_is_promised_is_shipped() -> None:
    assert {"cifar_cpu", "digits", "fashion_cpu", "gpu", "mnist_cpu", "pool_scaling", "small"} <= set(shipped_studies())


@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_configuration_says_what_it_suits(name: str) -> None:
    _, suits = read_shipped(name)
    assert suits.minutes.keys() == ({"tune", "distill"} if suits.automatic else suits.minutes.keys())
    assert suits.device in ("cpu", "gpu", "any")
    assert suits.colours in ("grey", "colour", "any")
    assert set(suits.datasets) <= set(DATASETS)
    assert {*suits.pixels} <= set(IMAGE_SIZES)
    assert suits.images[0] < suits.images[1]


@pytest.mark.parametrize("per_class", [30, 150])
def test_small_fits_few_images_of_any_size(per_class: int) -> None:
    config = read("small")
    for num_classes, channels, size in ((2, 1, 8), (2, 3, 64), (10, 3, 48)):
        held_out = per_class * 8 // 10 * 9 // 10  # what is left for training
        dataset = make_dataset(num_classes=num_classes, per_class=held_out, channels=channels, size=size)
        for check in (check_training, check_evaluation, check_search):
            check(config, dataset)


def test_pool_scaling_is_a_grid_of_doubling_pools_and_several_seeds() -> None:
    study = read("pool_scaling").study
    assert study.space == {"pool.size": [2**power for power in range(7)], "matching.seed": [0, 1, 2]}
    assert study.num_trials == study.num_grid_trials == 7 * 3


def test_pool_scaling_has_the_recipe_of_the_default_study() -> None:
    digits, scaling = read("digits"), read("pool_scaling")
    fixed = {"generator.capacity": 24, "matching.weight": 0.3}
    assert scaling == replace(digits, study=scaling.study).with_fields(fixed)
