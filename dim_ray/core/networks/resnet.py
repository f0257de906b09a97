"""ResNets for small images, from torchvision's ResNet.

ResNet-10, 18, 34 and 50 have 4,903,242, 11,173,962, 21,282,122 and 23,520,842 parameters for 32 RGB pixels and 10
classes, as published.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from dim_ray.config import Architecture
from dim_ray.core.networks.layers import AveragePool, halve, make_norm

__all__ = ["resnet"]

_BLOCKS = {  # residual blocks of each stage
    "resnet10": (1, 1, 1, 1),
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
}
_WITH_BOTTLENECKS = ("resnet50",)
_KERNEL = 3


def resnet(architecture: Architecture, *, num_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """Lay out four stages of residual blocks, the last three of which halve the map, and a linear layer on its mean.

    The stem is a 3x3 convolution of stride 1 without max pooling, as usual for small images. The width is the first
    stage's (published: 64, with batch or instance norm); the others have 2, 4 and 8 times as many channels. A stage
    doesn't halve the map if one pixel would be left. Names of parameters are torchvision's.

    With `architecture.pooled`, average pooling after a convolution of stride 1 replaces strides, also in the shortcut,
    as in the code of Zhao et al. (arXiv 2006.05929) and Kim et al. (arXiv 2205.14959). The classifier takes the map's
    mean as Kim's does, not the whole map as Zhao's, and so fits every size.
    """
    # Takes two seconds to import, and ConvNets don't need it.
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

    def norm_layer(channels: int) -> nn.Module:
        return make_norm(architecture.norm, channels)

    blocks, width = _BLOCKS[architecture.family], architecture.width
    block = Bottleneck if architecture.family in _WITH_BOTTLENECKS else BasicBlock
    network = ResNet(block, list(blocks), norm_layer=norm_layer)
    network.conv1 = nn.Conv2d(num_channels, width, _KERNEL, padding=_KERNEL // 2, bias=False)
    network.bn1 = norm_layer(width)
    network.maxpool = nn.Identity()
    # torchvision's constructor fixes the stages' widths for basic blocks, so they are made again. A stage reads the
    # width before it from `inplanes` and leaves its own there.
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
    """Replace the strides of a residual block by pooling, after the norm, or before it in the shortcut.

    torchvision's block has no place for pooling, so it becomes part of the next convolution.
    """
    is_bottleneck = hasattr(block, "conv3")
    strided, following = ("conv2", "conv3") if is_bottleneck else ("conv1", "conv2")
    shortcut, norm = block.downsample
    for convolution in (getattr(block, strided), shortcut):
        convolution.stride = (1, 1)
    setattr(block, following, nn.Sequential(AveragePool(), getattr(block, following)))
    block.downsample = nn.Sequential(shortcut, AveragePool(), norm)
