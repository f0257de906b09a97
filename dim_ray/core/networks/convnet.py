"""ConvNets, the usual networks of dataset distillation.

    network = convnet(check_architecture("convnet3"), num_channels=3, num_classes=10, image_size=32)

That one has 320,010 parameters, as published.
"""

from __future__ import annotations

from torch import nn

from dim_ray.config import Architecture
from dim_ray.core.networks.norms import make_norm
from dim_ray.core.networks.sizes import AveragePool, halve

__all__ = ["convnet"]

_KERNEL = 3


def convnet(architecture: Architecture, *, num_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """Lays out blocks of convolution, norm, ReLU and average pooling, then a linear layer.

    The number of blocks is in the family's name. An odd row or column is dropped by the pooling, so sizes 28, 14, 7 end
    in 3. A block before the last one doesn't pool where one pixel would be left; the last one always does.

    The published code (Zhao et al., "Dataset Condensation with Gradient Matching", arXiv 2006.05929) pads its first
    convolution by 3 for 28-pixel grey images, which makes them 32; here every size is treated alike, with a padding of
    1.

    Args:
        architecture: Blocks, norm (published: instance norm) and width, the channels of every block (published: 128).
        num_channels: Channels of the images.
        num_classes: Number of logits.
        image_size: Height and width of the images, in pixels, at least 2.
    """
    num_blocks, width = int(architecture.family.removeprefix("convnet")), architecture.width
    layers: list[nn.Module] = []
    size, channels = image_size, num_channels
    for block in range(num_blocks):
        layers += [
            nn.Conv2d(channels, width, _KERNEL, padding=_KERNEL // 2),
            make_norm(architecture.norm, width, size),
            nn.ReLU(),
        ]
        pooled = size // 2 if block == num_blocks - 1 else halve(size)
        if pooled < size:
            layers.append(AveragePool())
        size, channels = pooled, width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * size**2, num_classes))
