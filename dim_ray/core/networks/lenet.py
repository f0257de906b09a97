"""LeNet-5 with ReLU and max pooling: 62,006 parameters for 32 RGB pixels and 10 classes, as published."""

from __future__ import annotations

from torch import nn

from dim_ray.config import Architecture
from dim_ray.core.networks.layers import pad

__all__ = ["lenet"]

_CHANNELS = (6, 16)
_HIDDEN = (120, 84)
_KERNEL = 5
_POOL = 2
_LEAST_SIZE = 32


def lenet(architecture: Architecture, *, num_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """Lay out two convolutions with pooling and three linear layers, all of fixed sizes.

    As in the code of Zhao et al., "Dataset Condensation with Gradient Matching" (arXiv 2006.05929), which pads 28
    pixels to 32. Here every smaller image is padded to 32 with zeros; above 32, the first linear layer grows.
    """
    size = max(image_size, _LEAST_SIZE)
    layers: list[nn.Module] = [pad(image_size, size)]
    channels = num_channels
    for width in _CHANNELS:
        layers += [nn.Conv2d(channels, width, _KERNEL), nn.ReLU(), nn.MaxPool2d(_POOL)]
        size, channels = (size - _KERNEL + 1) // _POOL, width
    layers.append(nn.Flatten())
    features = channels * size**2
    for width in _HIDDEN:
        layers += [nn.Linear(features, width), nn.ReLU()]
        features = width
    return nn.Sequential(*layers, nn.Linear(features, num_classes))
