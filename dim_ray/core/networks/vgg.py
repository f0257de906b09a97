"""VGG-11 for small images, made of torchvision's layers.

    network = vgg11(check_architecture("vgg11"), num_channels=3, num_classes=10, image_size=32)

That one has 9,231,114 parameters, as published.
"""

from __future__ import annotations

from torch import nn

from dim_ray.config import Architecture
from dim_ray.core.networks.norms import make_norm
from dim_ray.core.networks.sizes import halve

__all__ = ["vgg11"]

_STAGES = ((1,), (2,), (4, 4), (8, 8), (8, 8))  # convolutions' channels in widths; max pooling follows each stage
_KERNEL = 3


def vgg11(architecture: Architecture, *, num_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """Lays out eight convolutions in five stages, each with max pooling, then the mean of the map and a linear layer.

    torchvision's three large linear layers, with their dropout, are one without, as is usual for 32 pixels (Zhao et
    al., arXiv 2006.05929). Those end in one pixel. A stage before the last one doesn't pool where one pixel would be
    left, and a larger map is averaged, so the number of parameters is the same for every size. Names of parameters in
    `features` are torchvision's.

    Args:
        architecture: Norm, and the width, which is that of the first convolution (published: 64).
        num_channels: Channels of the images.
        num_classes: Number of logits.
        image_size: Height and width of the images, in pixels, at least 4.
    """
    from torchvision.models.vgg import VGG, make_layers  # takes two seconds, and ConvNets don't need it

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
