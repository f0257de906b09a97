"""What makes every network take every image size: pooling that stops in time, and padding.

    pooled = halve(8)                        # 4; 2 and 3 pixels stay, as one would be left
    nn.Sequential(pad(28, 32), network)      # for a network that needs 32 pixels

Published networks are laid out for 32 pixels. Of smaller images their deepest layers would see maps of one pixel, of
which instance norm leaves nothing, so one pixel is left to the classifier alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["AveragePool", "halve", "pad"]

_POOL = 2


def halve(size: int, *, round_up: bool = False) -> int:
    """Returns the size of a map after it was halved, or `size` itself where one pixel would be left.

    Args:
        size: Height and width of the map, in pixels.
        round_up: Whether an odd row or column counts, as in strided convolutions, or is dropped, as in pooling.
    """
    half = (size + round_up) // _POOL
    return half if half > 1 else size


def pad(size: int, target: int) -> nn.Module:
    """Returns a module that surrounds images of `size` pixels evenly with zeros, the mean colour, up to `target`."""
    missing = max(target - size, 0)
    before = missing // 2
    return nn.ZeroPad2d((before, missing - before) * 2) if missing else nn.Identity()


class AveragePool(nn.Module):
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
