"""Classifiers by name, one family a file.

    network = build_classifier("resnet18_w32", num_channels=3, num_classes=10, image_size=32, rng=rng)
    logits = network(images)      # (B, 3, 32, 32) normalised float32 -> (B, 10)

A new family is a file with a builder, an entry in `REGISTRY`, and in dim_ray/config/architectures.py its name and what
it takes. No network has dropout: it would draw from the global random state, and a resumed run would give other bits.
The field's code has none for small images either.
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

__all__ = ["REGISTRY", "Builder", "build_classifier", "num_parameters"]


class Builder(Protocol):
    """Lays out the modules of one family; their values don't matter, they are initialised afterwards."""

    def __call__(
        self, architecture: Architecture, *, num_channels: int, num_classes: int, image_size: int
    ) -> nn.Module:
        """Returns a module from (B, num_channels, image_size, image_size) to (B, num_classes)."""


REGISTRY: dict[str, Builder] = {
    "alexnet": alexnet,
    "convnet1": convnet,
    "convnet2": convnet,
    "convnet3": convnet,
    "convnet4": convnet,
    "convnet5": convnet,
    "convnet6": convnet,
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
    """Returns a freshly initialised classifier, on the device of `rng`.

    Its forward takes (B, C, H, W) normalised float32 images and gives (B, K) logits. The weights depend on the
    arguments and the state of `rng` only.

    Args:
        name: A family of `REGISTRY` and its options, such as ``convnet3`` or ``resnet18_ap_w32``.
        num_channels: C, 1 for grey and 3 for RGB images.
        num_classes: K.
        image_size: Height and width of the images, in pixels.
        rng: Source of the initial weights.

    Raises:
        ConfigError: The family is unknown, it doesn't take an option, or a number is out of range.
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


def num_parameters(module: nn.Module) -> int:
    """Returns the number of values in a module's parameters, whether or not they are being trained."""
    return sum(parameter.numel() for parameter in module.parameters())
