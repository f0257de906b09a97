"""AlexNet for small images.

    network = alexnet(check_architecture("alexnet"), num_channels=3, num_classes=10, image_size=32)

That one has 1,872,202 parameters, as its published layers have.
"""

from __future__ import annotations

from torch import nn

from dim_ray.config import Architecture

__all__ = ["alexnet"]

# Kernel, channels in halves of the width, and whether pooling follows.
_LAYERS = ((5, 2, True), (5, 3, True), (3, 4, False), (3, 3, False), (3, 3, True))
_POOL = 2


def alexnet(architecture: Architecture, *, num_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """Lays out five convolutions with ReLU, three of them with max pooling, and a linear layer.

    As in the code of Zhao et al., "Dataset Condensation with Gradient Matching" (arXiv 2006.05929), for 32 pixels:
    128, 192, 256, 192 and 192 channels, and no dropout. torchvision's AlexNet is for 224 pixels, with a stride of 4. An
    odd row or column is dropped by the pooling, and 8 pixels end in one.

    Args:
        architecture: The width is that of the first convolution, an even number; the others are in proportion.
        num_channels: Channels of the images.
        num_classes: Number of logits.
        image_size: Height and width of the images, in pixels, at least 8.
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
