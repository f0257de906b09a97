"""Classifiers by name, one family a file.

    network = build_classifier("resnet18_w32", num_channels=3, num_classes=10, image_size=32, rng=rng)
    logits = network(images)      # (B, 3, 32, 32) normalised float32 -> (B, 10)

A new family is a file with a builder, an entry in `REGISTRY` and its name in `dim_ray.config.ARCHITECTURES`.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from dim_ray.config import IMAGE_SIZES, check_architecture
from dim_ray.core.initialise import initialise
from dim_ray.core.networks.convnet import convnet3
from dim_ray.core.networks.resnet import resnet10, resnet18
from dim_ray.errors import ConfigError

__all__ = ["REGISTRY", "Builder", "build_classifier", "num_parameters"]


class Builder(Protocol):
    """Lays out the modules of one family; their values don't matter, they are initialised afterwards."""

    def __call__(self, *, num_channels: int, num_classes: int, image_size: int, width: int | None) -> nn.Module:
        """Returns a module from (B, num_channels, image_size, image_size) to (B, num_classes).

        `width` is the number of channels of the first layer, None the family's own.
        """


REGISTRY: dict[str, Builder] = {"convnet3": convnet3, "resnet10": resnet10, "resnet18": resnet18}


def build_classifier(
    name: str, *, num_channels: int, num_classes: int, image_size: int, rng: torch.Generator
) -> nn.Module:
    """Returns a freshly initialised classifier, on the device of `rng`.

    Its forward takes (B, C, H, W) normalised float32 images and gives (B, K) logits. The weights depend on the
    arguments and the state of `rng` only.

    Args:
        name: A family of `REGISTRY`, with `_w64` for another width, such as ``convnet3`` or ``resnet18_w32``.
        num_channels: C, 1 for grey and 3 for RGB images.
        num_classes: K.
        image_size: Height and width of the images, in pixels.
        rng: Source of the initial weights.

    Raises:
        ConfigError: The family is unknown, or a number is out of range.
    """
    family, width = check_architecture(name)
    if image_size not in IMAGE_SIZES:
        raise ConfigError(
            f"image_size is {image_size!r}; allowed: {IMAGE_SIZES.start} to {IMAGE_SIZES.stop - 1} pixels. "
            "Scale the images first."
        )
    for what, number in (("num_channels", num_channels), ("num_classes", num_classes)):
        if number < 1:
            raise ConfigError(f"{what} is {number!r}; allowed: 1 or more.")
    with torch.device("meta"):  # no memory, and no draw from the global random state
        network = REGISTRY[family](
            num_channels=num_channels, num_classes=num_classes, image_size=image_size, width=width
        )
    network.to_empty(device=rng.device)
    initialise(network, rng)
    return network


def num_parameters(module: nn.Module) -> int:
    """Returns the number of values in a module's parameters, whether or not they are being trained."""
    return sum(parameter.numel() for parameter in module.parameters())
