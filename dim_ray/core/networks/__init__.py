"""Classifiers by name, one family per file.

    network = build_classifier("resnet18_w32", num_channels=3, num_classes=10, image_size=32, rng=rng)
    logits = network(images)      # (B, 3, 32, 32) normalised float32 -> (B, 10)

A new family needs a builder in a file of its own, an entry in `REGISTRY`, and its name and options in
dim_ray/config/architectures.py. No network has dropout: it would draw from the global random state, and a resumed run
would give other bits. The field's code has none for small images either.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from dim_ray.config import check_architecture
from dim_ray.core.networks.alexnet import alexnet
from dim_ray.core.networks.convnet import convnet
from dim_ray.core.networks.densenet import densenet121
from dim_ray.core.networks.initialise import initialise
from dim_ray.core.networks.lenet import lenet
from dim_ray.core.networks.mlp import mlp
from dim_ray.core.networks.resnet import resnet
from dim_ray.core.networks.vgg import vgg11
from dim_ray.core.networks.vit import vit_tiny

__all__ = ["REGISTRY", "build_classifier"]


REGISTRY: dict[str, Callable[..., nn.Module]] = {
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
"""Functions by family that lay out the modules of an architecture, which are initialised afterwards."""


def build_classifier(
    name: str, *, num_channels: int, num_classes: int, image_size: int, rng: torch.Generator
) -> nn.Module:
    """Return a freshly initialised classifier, on the device of `rng`.

    It takes normalised float32 images (B, num_channels, image_size, image_size) to logits (B, num_classes).

    Raises:
        ConfigError: Family or option is unknown, or a width is out of range.
    """
    architecture = check_architecture(name)
    with torch.device("meta"):  # no memory, and no draw from the global random state
        network = REGISTRY[architecture.family](
            architecture, num_channels=num_channels, num_classes=num_classes, image_size=image_size
        )
    network.to_empty(device=rng.device)
    initialise(network, rng)
    return network
