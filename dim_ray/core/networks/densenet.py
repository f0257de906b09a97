"""DenseNet-121 for small images, made of torchvision's DenseNet.

    network = densenet121(check_architecture("densenet121"), num_channels=3, num_classes=10, image_size=32)

That one has 6,956,298 parameters, as published.
"""

from __future__ import annotations

from torch import nn

from dim_ray.config import Architecture
from dim_ray.core.networks.sizes import AveragePool, halve

__all__ = ["densenet121"]

_LAYERS = (6, 12, 24, 16)
_KERNEL = 3


def densenet121(architecture: Architecture, *, num_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """Lays out four dense blocks with transitions between them, which halve the map, and a linear layer on its mean.

    The stem is a 3x3 convolution of stride 1 and nothing else, as Huang et al., "Densely Connected Convolutional
    Networks" (arXiv 1608.06993), have it for CIFAR: every layer of the first block begins with a norm of its own. With
    torchvision's norm after the stem it would be 128 parameters more. A transition doesn't halve the map where one
    pixel would be left. Names of parameters are torchvision's.

    Args:
        architecture: The width is the stem's, an even number (published: 64); the growth rate is half of it.
        num_channels: Channels of the images.
        num_classes: Number of logits.
        image_size: Height and width of the images, in pixels.
    """
    from torchvision.models.densenet import DenseNet  # takes two seconds, and ConvNets don't need it

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
