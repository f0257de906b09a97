"""ResNet-10 and ResNet-18 for small images, made of torchvision's ResNet.

    network = resnet18(num_channels=3, num_classes=10, image_size=32, width=None)

That one has 11,173,962 parameters, as published.
"""

from __future__ import annotations

from torch import nn

__all__ = ["resnet10", "resnet18"]

_WIDTH = 64
_KERNEL = 3


def resnet10(*, num_channels: int, num_classes: int, image_size: int, width: int | None) -> nn.Module:
    """Lays out four stages of one basic block each; arguments as for `resnet18`."""
    return _resnet((1, 1, 1, 1), num_channels, num_classes, width or _WIDTH)


def resnet18(*, num_channels: int, num_classes: int, image_size: int, width: int | None) -> nn.Module:
    """Lays out four stages of two basic blocks each.

    The stem is a 3x3 convolution of stride 1 without max-pooling, as usual for small images. Names of parameters
    are torchvision's.

    Args:
        num_channels: Channels of the images.
        num_classes: Number of logits.
        image_size: Height and width of the images, in pixels; any, because the last stage is averaged.
        width: Channels of the first stage, None for the published 64; the other stages have 2, 4 and 8 times as many.
    """
    return _resnet((2, 2, 2, 2), num_channels, num_classes, width or _WIDTH)


def _resnet(blocks: tuple[int, int, int, int], num_channels: int, num_classes: int, width: int) -> nn.Module:
    from torchvision.models.resnet import BasicBlock, ResNet  # takes two seconds, and ConvNets don't need it

    network = ResNet(BasicBlock, list(blocks))
    network.conv1 = nn.Conv2d(num_channels, width, _KERNEL, padding=_KERNEL // 2, bias=False)
    network.bn1 = nn.BatchNorm2d(width)
    network.maxpool = nn.Identity()
    # torchvision's constructor fixes the widths of the stages and offers no argument for basic blocks, so they are
    # made again. A stage reads the width before it from `inplanes` and leaves its own there.
    network.inplanes = width
    for stage, num_blocks in enumerate(blocks):
        planes = width * 2**stage
        layer = network._make_layer(BasicBlock, planes, num_blocks, stride=1 if stage == 0 else 2)
        setattr(network, f"layer{stage + 1}", layer)
    network.fc = nn.Linear(network.inplanes, num_classes)
    classifier: nn.Module = network  # torchvision is not typed
    return classifier
