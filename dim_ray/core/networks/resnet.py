"""ResNets for small images, made of torchvision's ResNet.

    network = resnet(check_architecture("resnet18"), num_channels=3, num_classes=10, image_size=32)

ResNet-10, 18, 34 and 50 have 4,903,242, 11,173,962, 21,282,122 and 23,520,842 parameters then, as published.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from dim_ray.config import Architecture
from dim_ray.core.networks.norms import make_norm
from dim_ray.core.networks.sizes import AveragePool, halve

__all__ = ["resnet"]

_BLOCKS = {  # of each stage
    "resnet10": (1, 1, 1, 1),
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
}
_WITH_BOTTLENECKS = ("resnet50",)
_KERNEL = 3


def resnet(architecture: Architecture, *, num_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """Lays out four stages of residual blocks, the last three of which halve the map, and a linear layer on its mean.

    The stem is a 3x3 convolution of stride 1 without max pooling, as usual for small images. A stage doesn't halve the
    map where one pixel would be left. Names of parameters are torchvision's.

    With `architecture.pooled`, strides are average pooling after a convolution of stride 1, in the shortcut too, as in
    the code of Zhao et al. (arXiv 2006.05929) and Kim et al. (arXiv 2205.14959). Zhao's classifier takes the whole map;
    this one takes its mean, as Kim's does, and so fits every size.

    Args:
        architecture: Pooling, norm (published: batch or instance norm), and the width, which is the number of channels
            of the first stage (published: 64); the other stages have 2, 4 and 8 times as many.
        num_channels: Channels of the images.
        num_classes: Number of logits.
        image_size: Height and width of the images, in pixels.
    """
    from torchvision.models.resnet import (
        BasicBlock,
        Bottleneck,
        ResNet,
    )  # takes two seconds, and ConvNets don't need it

    def norm_layer(channels: int) -> nn.Module:
        return make_norm(architecture.norm, channels)

    blocks, width = _BLOCKS[architecture.family], architecture.width
    block = Bottleneck if architecture.family in _WITH_BOTTLENECKS else BasicBlock
    network = ResNet(block, list(blocks), norm_layer=norm_layer)
    network.conv1 = nn.Conv2d(num_channels, width, _KERNEL, padding=_KERNEL // 2, bias=False)
    network.bn1 = norm_layer(width)
    network.maxpool = nn.Identity()
    # torchvision's constructor fixes the widths of the stages and offers no argument for basic blocks, so they are
    # made again. A stage reads the width before it from `inplanes` and leaves its own there.
    network.inplanes = width
    size = image_size
    for stage, num_blocks in enumerate(blocks):
        halved = size if stage == 0 else halve(size, round_up=not architecture.pooled)
        layer = network._make_layer(block, width * 2**stage, num_blocks, stride=2 if halved < size else 1)
        if architecture.pooled and halved < size:
            _pool_instead_of_strides(layer[0])
        setattr(network, f"layer{stage + 1}", layer)
        size = halved
    network.fc = nn.Linear(network.inplanes, num_classes)
    classifier: nn.Module = network  # torchvision is not typed
    return classifier


def _pool_instead_of_strides(block: Any) -> None:
    """Gives a residual block's strided convolutions stride 1, and pools after their norm, or before it in the shortcut.

    The pooling is put before the convolution that comes next, because torchvision's block has no place of its own.
    """
    is_bottleneck = hasattr(block, "conv3")
    strided, following = ("conv2", "conv3") if is_bottleneck else ("conv1", "conv2")
    shortcut, norm = block.downsample
    for convolution in (getattr(block, strided), shortcut):
        convolution.stride = (1, 1)
    setattr(block, following, nn.Sequential(AveragePool(), getattr(block, following)))
    block.downsample = nn.Sequential(shortcut, AveragePool(), norm)
