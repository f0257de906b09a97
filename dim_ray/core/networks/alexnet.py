"""AlexNet for small images: 1,872,202 parameters for 32 RGB pixels and 10 classes, as published."""

from __future__ import annotations

from torch import nn

from dim_ray.config import Architecture

__all__ = ["alexnet"]

# Kernel, channels in halves of the width, and whether pooling follows.
_LAYERS = ((5, 2, True), (5, 3, True), (3, 4, False), (3, 3, False), (3, 3, True))
_POOL = 2


def alexnet(architecture: Architecture, *, num_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """Lay out five convolutions with ReLU, three of them with max pooling, and a linear layer.

    As in the code of Zhao et al., "Dataset Condensation with Gradient Matching" (arXiv 2006.05929), for 32 pixels: 128,
    192, 256, 192 and 192 channels, and no dropout. torchvision's AlexNet is for 224 pixels. The width is the first
    convolution's, an even number; the others are in proportion. Pooling drops an odd row or column, and 8 pixels end in
    one.
    """
    layers: list[nn.Module] = []
    size, channels = image_size, num_channels
    for kernel, halves, pools in _LAYERS:
        width = architecture.width // 2 * halves
        layers += [nn.Conv2d(channels, width, kernel, padding=kernel // 2), nn.ReLU()]
        channels = width
        if pools:
            layers.append(nn.MaxPool2d(_POOL))
            size //= _POOL
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * size**2, num_classes))
