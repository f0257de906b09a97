"""ConvNet-3, the usual network of dataset distillation.

    network = convnet3(num_channels=3, num_classes=10, image_size=32, width=None)

That one has 320,010 parameters, as published.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["convnet3"]

_WIDTH = 128
_NUM_BLOCKS = 3
_KERNEL = 3
_POOL = 2


def convnet3(*, num_channels: int, num_classes: int, image_size: int, width: int | None) -> nn.Module:
    """Lays out three blocks of convolution, instance norm, ReLU and average pooling, then a linear layer.

    The instance norm has a scale and a shift for each channel; it is a group norm with as many groups as channels.
    An odd row or column is dropped by the pooling, so sizes 28, 14, 7 end in 3. The published code (Zhao et al.,
    "Dataset Condensation with Gradient Matching", arXiv 2006.05929) pads its first convolution by 3 for 28-pixel
    grey images, which makes them 32; here every size is treated alike, with a padding of 1.

    Args:
        num_channels: Channels of the images.
        num_classes: Number of logits.
        image_size: Height and width of the images, in pixels, at least 8.
        width: Channels of every block, None for the published 128.
    """
    width = width or _WIDTH
    layers: list[nn.Module] = []
    size, channels = image_size, num_channels
    for _ in range(_NUM_BLOCKS):
        layers += [
            nn.Conv2d(channels, width, _KERNEL, padding=_KERNEL // 2),
            nn.GroupNorm(width, width),
            nn.ReLU(),
            _AveragePool(),
        ]
        size, channels = size // _POOL, width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * size**2, num_classes))


class _AveragePool(nn.Module):
    """Means of squares of 2x2; an odd row or column is dropped.

    On a CPU it's a product with a fixed matrix: two rows of an image lie behind each other, and each of the matrix's
    columns averages one square. PyTorch's own kernel takes two to six times as long there, a quarter of a step.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Takes (B, C, H, W) to (B, C, H // 2, W // 2)."""
        height, width = images.shape[-2:]
        if images.device.type != "cpu" or height % _POOL or width % _POOL:
            return F.avg_pool2d(images, _POOL)
        half = torch.eye(width // _POOL, dtype=images.dtype, device=images.device).repeat_interleave(_POOL, dim=0)
        means = images.reshape(-1, _POOL * width) @ (half.repeat(_POOL, 1) / _POOL**2)
        return means.view(*images.shape[:-2], height // _POOL, width // _POOL)
