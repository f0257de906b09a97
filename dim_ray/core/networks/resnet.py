"""ResNets for small images, from torchvision's ResNet.

ResNet-10, 18, 34 and 50 have 4,903,242, 11,173,962, 21,282,122 and 23,520,842 parameters for 32 RGB pixels and 10
classes, as published. In DiM's code ResNet-10 and 18 (`resnet10_dim`, `resnet18_dim`) have 1,228,970 and 2,797,610.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
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
_LARGE_KERNEL = 7
_LARGE_STRIDE = 4  # of the whole 7x7 stem


def resnet(architecture: Architecture, *, num_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """Lay out four stages of residual blocks, the last three of which halve the map, and a linear layer on its mean.

    The stem is a 3x3 convolution of stride 1 without max pooling, as usual for small images. The width is the first
    stage's (published: 64, with batch or instance norm); the others have 2, 4 and 8 times as many channels. A stage
    doesn't halve the map if one pixel would be left. Names of parameters are torchvision's.

    With `architecture.pooled`, average pooling after a convolution of stride 1 replaces strides, also in the shortcut,
    as in the code of Zhao et al. (arXiv 2006.05929) and Kim et al. (arXiv 2205.14959). The classifier takes the map's
    mean as Kim's does, not the whole map as Zhao's, and so fits every size.

    Variants have the initial weights of DiM's code. `dim7` has its stem for large images, a 7x7 convolution and 3x3 max
    pooling, both of stride 2, or with `architecture.pooled` a convolution of stride 1 and 4x4 average pooling. Stages
    then halve the map down to one pixel, so batches need two images. In that code pooling fails at MNIST's 28 pixels,
    whose last map would be empty; here the last stage keeps the one pixel.
    """
    # Takes two seconds to import, and ConvNets don't need it.
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

    def norm_layer(channels: int) -> nn.Module:
        return make_norm(architecture.norm, channels)

    blocks, width = _BLOCKS[architecture.family], architecture.width
    block = Bottleneck if architecture.family in _WITH_BOTTLENECKS else BasicBlock
    network = ResNet(block, list(blocks), norm_layer=norm_layer)
    size, least = image_size, 2
    kernel = _LARGE_KERNEL if architecture.variant == "dim7" else _KERNEL
    stem = functools.partial(nn.Conv2d, num_channels, width, kernel, padding=kernel // 2, bias=False)
    network.bn1 = norm_layer(width)
    if architecture.variant != "dim7":
        network.conv1, network.maxpool = stem(), nn.Identity()
    elif architecture.pooled:
        network.conv1, network.maxpool = stem(), nn.AvgPool2d(_LARGE_STRIDE)
        size, least = size // _LARGE_STRIDE, 1
    else:
        network.conv1 = stem(stride=2)  # torchvision's max pooling stays
        size, least = -(-size // _LARGE_STRIDE), 1
    # torchvision's constructor fixes the stages' widths for basic blocks, so they are made again. A stage reads the
    # width before it from `inplanes` and leaves its own there.
    network.inplanes = width
    for stage, num_blocks in enumerate(blocks):
        halved = size if stage == 0 else halve(size, round_up=not architecture.pooled, least=least)
        layer = network._make_layer(block, width * 2**stage, num_blocks, stride=2 if halved < size else 1)
        if architecture.pooled and halved < size:
            _pool_instead_of_strides(layer[0])
        setattr(network, f"layer{stage + 1}", layer)
        size = halved
    network.fc = nn.Linear(network.inplanes, num_classes)
    classifier: nn.Module = network  # torchvision is not typed
    if architecture.variant:
        for part in classifier.modules():
            if isinstance(part, nn.Conv2d):
                part.__class__ = _FanOutConvolution
    return classifier


class _FanOutConvolution(nn.Conv2d):
    """A convolution whose weights begin as N(0, 2 / (kernel height x width x output channels))."""

    def initialise_weights(self, rng: torch.Generator) -> None:
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu", generator=rng)


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
