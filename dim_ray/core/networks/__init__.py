"""Classifiers by name, one family per file.

    network = build_classifier("resnet18_w32", num_channels=3, num_classes=10, image_size=32, rng=rng)
    logits = network(images)      # (B, 3, 32, 32) normalised float32 -> (B, 10)

A new family needs a builder in a file of its own, an entry in `REGISTRY`, and its name and options in
dim_ray/config/architectures.py. No network has dropout: it would draw from the global random state, and a resumed run
would give other bits. The field's code has none for small images either.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from dim_ray.config import IMAGE_SIZES, Architecture, check_architecture
from dim_ray.core.networks.alexnet import alexnet
from dim_ray.core.networks.convnet import convnet
from dim_ray.core.networks.densenet import densenet121
from dim_ray.core.networks.initialise import initialise
from dim_ray.core.networks.lenet import lenet
from dim_ray.core.networks.mlp import mlp
from dim_ray.core.networks.resnet import resnet
from dim_ray.core.networks.vgg import vgg11
from dim_ray.core.networks.vit import vit_tiny
from dim_ray.errors import ConfigError

__all__ = ["REGISTRY", "Builder", "build_classifier"]


class Builder(Protocol):
    """Function that lays out one family's modules, which are initialised afterwards."""

    def __call__(
        self, architecture: Architecture, *, num_channels: int, num_classes: int, image_size: int
    ) -> nn.Module:
        """Return a module from (B, num_channels, image_size, image_size) to (B, num_classes)."""


REGISTRY: dict[str, Builder] = {
    "alexnet": alexnet,
    **{f"convnet{num_blocks}": convnet for num_blocks in range(1, 7)},
    "densenet121": densenet121,
    "lenet": lenet,
    "mlp": mlp,
    "resnet10": resnet,
    "resnet18": resnet,
    "resnet34": resnet,
    "resnet50": resnet,
    "vgg11": vgg11,
    "vit_tiny": vit_tiny,
}


def build_classifier(
    name: str, *, num_channels: int, num_classes: int, image_size: int, rng: torch.Generator
) -> nn.Module:
    """Return a freshly initialised classifier, on the device of `rng`.

    It takes (B, C, H, W) normalised float32 images to (B, K) logits.

    Args:
        name: Family of `REGISTRY` and options, such as ``convnet3`` or ``resnet18_ap_w32``.
        num_channels: C, 1 for grey and 3 for RGB images.
        num_classes: K.
        image_size: Height and width of the images, in pixels.
        rng: Source of the initial weights.

    Raises:
        ConfigError: Family or option is unknown, or a number is out of range.
    """
    architecture = check_architecture(name)
    if image_size not in IMAGE_SIZES:
        raise ConfigError(
            f"image_size is {image_size!r}; allowed: {IMAGE_SIZES.start} to {IMAGE_SIZES.stop - 1} pixels. "
            "Scale the images first."
        )
    for what, number in (("num_channels", num_channels), ("num_classes", num_classes)):
        if number < 1:
            raise ConfigError(f"{what} is {number!r}; allowed: 1 or more.")
    with torch.device("meta"):  # no memory, and no draw from the global random state
        network = REGISTRY[architecture.family](
            architecture, num_channels=num_channels, num_classes=num_classes, image_size=image_size
        )
    network.to_empty(device=rng.device)
    initialise(network, rng)
    return network
