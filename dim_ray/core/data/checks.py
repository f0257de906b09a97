"""Checks of a configuration that need its data set, made before anything runs.

check_training(config, dataset)
check_evaluation(config, dataset)
"""

from __future__ import annotations

from collections.abc import Callable

from dim_ray.config import IMAGE_SIZES, Config
from dim_ray.core.data.dataset import Dataset
from dim_ray.core.data.splits import class_counts
from dim_ray.errors import ConfigError

__all__ = ["Check", "check_evaluation", "check_training"]

Check = Callable[[Config, Dataset], None]
"""Raises a ConfigError where a configuration doesn't fit a data set."""

_REAL_OF_AN_IPC = ("real_on_the_fly", "real_fixed")


def check_training(config: Config, dataset: Dataset) -> None:
    """Raise a ConfigError if a batch is larger than the training split, or labels leave z without noise.

    Or if the generator's maps would be smaller than it begins with.
    """
    num_images = len(dataset.train)
    for section, batch_size in (
        ("pool", config.pool.batch_size),
        ("prior", config.prior.batch_size),
        ("matching", config.matching.batch_size),
    ):
        if batch_size > num_images:
            raise ConfigError(
                f"{section}.batch_size is {batch_size}, but the training split of {dataset.name} has {num_images} "
                f"images: it would train zero steps. Set --{section}.batch_size to {num_images} or less."
            )
    latent_dim = config.generator.resolve_latent_dim(dataset.num_classes)
    label_entries = config.generator.label_entries(dataset.num_classes)
    if latent_dim <= label_entries:
        raise ConfigError(
            f"generator.latent_dim is {latent_dim}, but {dataset.name} has {dataset.num_classes} classes, whose "
            f"labels take the place of its first {label_entries} entries: without noise behind them every image of a "
            f"class would be the same. Leave --generator.latent_dim out, or set it well above {label_entries}."
        )
    upsampling, smallest = config.generator.upsampling, IMAGE_SIZES[0] // 2
    if -(-dataset.image_size // upsampling) < smallest:
        raise ConfigError(
            f"generator.upsampling is {upsampling}, but the images of {dataset.name} have {dataset.image_size} pixels, "
            f"and the generator's maps at least {smallest}. Set --generator.upsampling to "
            f"{dataset.image_size // smallest} or less."
        )


def check_evaluation(config: Config, dataset: Dataset) -> None:
    """Raise a ConfigError if an IPC of a real baseline is larger than a class."""
    baselines = [protocol for protocol in config.evaluation.protocols if protocol in _REAL_OF_AN_IPC]
    counts = class_counts(dataset.train, dataset.num_classes)
    smallest = counts.index(min(counts))
    images_per_class = max(config.evaluation.images_per_class)
    if baselines and images_per_class > counts[smallest]:
        raise ConfigError(
            f"evaluation.images_per_class has {images_per_class}, but the class {dataset.class_names[smallest]!r} has "
            f"{counts[smallest]} training images in {dataset.name}, too few for {' and '.join(baselines)}. Set "
            f"--evaluation.images_per_class to {counts[smallest]} or less, or leave the real_ protocols out of "
            "--evaluation.protocols."
        )
