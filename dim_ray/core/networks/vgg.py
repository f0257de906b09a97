"""VGG-11 for small images, from torchvision's layers.

It has 9,231,114 parameters for 32 RGB pixels and 10 classes, as published.
"""

from __future__ import annotations

from torch import nn

from dim_ray.config import Architecture
from dim_ray.core.networks.layers import halve, make_norm

__all__ = ["vgg11"]

_STAGES = ((1,), (2,), (4, 4), (8, 8), (8, 8))  # convolutions' channels in widths; max pooling follows each stage
_KERNEL = 3


def vgg11(architecture: Architecture, *, num_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """Lay out eight convolutions in five stages, each with max pooling, then the mean of the map and a linear layer.

    The width is the first convolution's (published: 64). One linear layer without dropout replaces torchvision's three,
    as is usual for 32 pixels (Zhao et al., arXiv 2006.05929). A stage before the last one doesn't pool if one pixel
    would be left, and the last map is averaged, so every size has as many parameters. Names of parameters in `features`
    are torchvision's.
    """
    from torchvision.models.vgg import VGG, make_layers  # takes two seconds to import, and ConvNets don't need it

    width, size = architecture.width, image_size
    layout: list[int | str] = []
    for stage, multiples in enumerate(_STAGES):
        layout += [width * multiple for multiple in multiples]
        pooled = size // 2 if stage == len(_STAGES) - 1 else halve(size)
        if pooled < size:
            layout.append("M")
        size = pooled
    features = make_layers(layout, batch_norm=True)
    features[0] = nn.Conv2d(num_channels, width, _KERNEL, padding=_KERNEL // 2)
    for index, layer in enumerate(features):
        if isinstance(layer, nn.BatchNorm2d):
            features[index] = make_norm(architecture.norm, layer.num_features)
    network = VGG(features, num_classes, init_weights=False)
    network.avgpool = nn.AdaptiveAvgPool2d(1)
    network.classifier = nn.Linear(width * _STAGES[-1][-1], num_classes)
    classifier: nn.Module = network  # torchvision is not typed
    return classifier
