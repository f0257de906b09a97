from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dim_ray.config import (
    Config,
    DataConfig,
    EvaluationConfig,
    GeneratorConfig,
    MatchingConfig,
    PoolConfig,
    PriorConfig,
)
from dim_ray.core.data.checks import check_evaluation, check_training
from dim_ray.core.data.dataset import Dataset, load_dataset
from dim_ray.errors import ConfigError
from tests.helpers.written_images import pixels, write_folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """36 training images: 22 cats and 14 dogs."""
    root = write_folder(tmp_path_factory.mktemp("pets") / "pets", {"cat": pixels(30), "dog": pixels(20, seed=1)})
    return load_dataset(DataConfig(dataset=f"folder:{root}"))


def fitting() -> Config:
    return Config(
        pool=PoolConfig(batch_size=36),
        prior=PriorConfig(batch_size=36),
        matching=MatchingConfig(batch_size=36),
        evaluation=EvaluationConfig(images_per_class=(1, 14)),
    )


def test_a_batch_of_the_whole_split_and_an_ipc_of_the_smallest_class_fit(dataset: Dataset) -> None:
    assert len(dataset.train) == 36
    check_training(fitting(), dataset)
    check_evaluation(fitting(), dataset)


@pytest.mark.parametrize("section", ["pool", "prior", "matching"])
def test_a_batch_larger_than_the_training_split_is_refused(dataset: Dataset, section: str) -> None:
    config = fitting()
    config = replace(config, **{section: replace(getattr(config, section), batch_size=37)})
    with pytest.raises(
        ConfigError, match=rf"{section}.batch_size is 37, but .* 36 images.*--{section}.batch_size to 36"
    ):
        check_training(config, dataset)


@pytest.mark.parametrize("protocol", ["real_fixed", "real_on_the_fly"])
def test_an_ipc_larger_than_the_smallest_class_is_refused_for_real_images(dataset: Dataset, protocol: Any) -> None:
    evaluation = EvaluationConfig(images_per_class=(1, 15, 2), protocols=("fixed", protocol))
    with pytest.raises(ConfigError, match=rf"has 15, but the class 'dog' has 14 .* {protocol}\. Set --evaluation"):
        check_evaluation(replace(fitting(), evaluation=evaluation), dataset)


def test_generated_images_have_no_such_limit(dataset: Dataset) -> None:
    evaluation = EvaluationConfig(images_per_class=(1000,), protocols=("fixed", "on_the_fly"))
    check_evaluation(replace(fitting(), evaluation=evaluation), dataset)


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_a_latent_vector_that_the_label_fills_is_refused(dataset: Dataset, latent_dim: int) -> None:
    config = replace(fitting(), generator=GeneratorConfig(latent_dim=latent_dim))
    message = rf"latent_dim is {latent_dim}, but pets has 2 classes.*would be the same.*set it well above 2\."
    with pytest.raises(ConfigError, match=message):
        check_training(config, dataset)


def test_a_latent_vector_that_a_learned_label_fills_is_refused(dataset: Dataset) -> None:
    config = replace(fitting(), generator=GeneratorConfig(latent_dim=8, label_embedding=8))
    with pytest.raises(ConfigError, match=r"latent_dim is 8.*its first 8 entries"):
        check_training(config, dataset)
    check_training(replace(config, generator=GeneratorConfig(latent_dim=9, label_embedding=8)), dataset)


def test_a_latent_vector_with_an_entry_of_noise_is_taken(dataset: Dataset) -> None:
    check_training(replace(fitting(), generator=GeneratorConfig(latent_dim=3)), dataset)


def test_maps_smaller_than_the_generators_first_are_refused(dataset: Dataset) -> None:
    assert dataset.image_size == 8
    check_training(replace(fitting(), generator=GeneratorConfig(upsampling=2)), dataset)
    with pytest.raises(ConfigError, match=r"upsampling is 3, but the images of pets have 8 pixels.*to 2 or less"):
        check_training(replace(fitting(), generator=GeneratorConfig(upsampling=3)), dataset)


def test_a_latent_vector_of_the_default_length_is_never_too_short(dataset: Dataset) -> None:
    names = tuple(str(label) for label in range(1000))
    check_training(fitting(), replace(dataset, class_names=names))
