"""ConvNets, the usual networks of dataset distillation.

`convnet3` has 320,010 parameters for 32 RGB pixels and 10 classes, as published.
"""

from __future__ import annotations

from torch import nn

from dim_ray.config import Architecture
from dim_ray.core.networks.layers import AveragePool, halve, make_norm

__all__ = ["convnet"]

_KERNEL = 3
_GREY_PADDING = 3


def convnet(architecture: Architecture, *, num_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """Lay out blocks of convolution, norm, ReLU and average pooling, then a linear layer.

    The family's name has the number of blocks. The width is every block's (published: 128, with instance norm). Pooling
    drops an odd row or column. A block before the last one doesn't pool if one pixel would be left; the last always
    does. The published code (Zhao et al., "Dataset Condensation with Gradient Matching", arXiv 2006.05929) pads grey
    images of 28 pixels to 32; here every size has a padding of 1. `convnet3_dim` pads grey images as DiM's code does,
    by 3 pixels in the first convolution: 317,706 parameters for 28 pixels and 10 classes.
    """
    num_blocks, width = int(architecture.family.removeprefix("convnet")), architecture.width
    layers: list[nn.Module] = []
    size, channels = image_size, num_channels
    for block in range(num_blocks):
        padding = _GREY_PADDING if architecture.variant and block == 0 and num_channels == 1 else _KERNEL // 2
        size += 2 * padding - _KERNEL + 1
        layers += [
            nn.Conv2d(channels, width, _KERNEL, padding=padding),
            make_norm(architecture.norm, width, size),
            nn.ReLU(),
        ]
        pooled = size // 2 if block == num_blocks - 1 else halve(size)
        if pooled < size:
            layers.append(AveragePool())
        size, channels = pooled, width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * size**2, num_classes))
