"""DenseNet-121 for small images, from torchvision's DenseNet.

It has 6,956,298 parameters for 32 RGB pixels and 10 classes, as published. `densenet121_dim`, with the growth rate of
DiM's code, which is 12, has 1,000,618.
"""

from __future__ import annotations

from torch import nn

from dim_ray.config import Architecture
from dim_ray.core.networks.layers import AveragePool, halve

__all__ = ["densenet121"]

_LAYERS = (6, 12, 24, 16)
_KERNEL = 3


def densenet121(architecture: Architecture, *, num_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """Lay out four dense blocks with transitions between them, which halve the map, and a linear layer on its mean.

    The stem is only a 3x3 convolution of stride 1, as in Huang et al., "Densely Connected Convolutional Networks"
    (arXiv 1608.06993), for CIFAR. The width is the stem's, an even number (published: 64); the growth rate is half of
    it. A transition doesn't halve the map if one pixel would be left. Names of parameters are torchvision's.
    """
    from torchvision.models.densenet import DenseNet  # takes two seconds to import, and ConvNets don't need it

    width, size = architecture.width, image_size
    network = DenseNet(growth_rate=width // 2, block_config=_LAYERS, num_init_features=width, num_classes=num_classes)
    features = network.features
    features.conv0 = nn.Conv2d(num_channels, width, _KERNEL, padding=_KERNEL // 2, bias=False)
    features.norm0, features.relu0, features.pool0 = nn.Identity(), nn.Identity(), nn.Identity()
    for transition in (features.transition1, features.transition2, features.transition3):
        pooled = halve(size)
        transition.pool = AveragePool() if pooled < size else nn.Identity()
        size = pooled
    classifier: nn.Module = network  # torchvision is not typed
    return classifier
