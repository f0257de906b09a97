"""Norms, and the pooling and padding that let every network take every image size.

    pooled = halve(8)                        # 4; 2 and 3 pixels stay, because one would be left
    nn.Sequential(pad(28, 32), network)      # for a network that needs 32 pixels

Published networks are for 32 pixels. Of smaller images their deepest layers would see maps of one pixel, which instance
norm makes zero, so only the classifier may see one pixel (and the batch norms of `resnet18_dim7` and its kind).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dim_ray.config import NUM_GROUPS, Norm

__all__ = ["AveragePool", "halve", "make_norm", "pad"]

_POOL = 2


def halve(size: int, *, round_up: bool = False, least: int = 2) -> int:
    """Return half the size of a map in pixels, or `size` itself if fewer than `least` would be left.

    Pooling rounds down, strided convolutions round up.
    """
    half = (size + round_up) // _POOL
    return half if half >= least else size


def pad(size: int, target: int) -> nn.Module:
    """Return a module that pads images of `size` pixels evenly with zeros, the mean colour, to `target` pixels."""
    missing = max(target - size, 0)
    before = missing // 2
    return nn.ZeroPad2d((before, missing - before) * 2) if missing else nn.Identity()


class AveragePool(nn.Module):
    """Average pooling of 2x2 pixels; an odd row or column is dropped.

    On a CPU it's a product with a fixed matrix, each column of which averages one square of two consecutive rows:
    PyTorch's kernel takes two to six times as long there, a quarter of a step.
    """

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if images.device.type != "cpu" or height % _POOL or width % _POOL:
            return F.avg_pool2d(images, _POOL)
        half = torch.eye(width // _POOL, dtype=images.dtype, device=images.device).repeat_interleave(_POOL, dim=0)
        means = images.reshape(-1, _POOL * width) @ (half.repeat(_POOL, 1) / _POOL**2)
        return means.view(*images.shape[:-2], height // _POOL, width // _POOL)


def make_norm(norm: Norm, channels: int, size: int = 0) -> nn.Module:
    """Return a module that normalises maps (B, channels, size, size), with a scale and a shift.

    Args:
        norm: Name. `in` is a group norm with as many groups as channels, and `gn` one with four, as in the code of Zhao
            et al. (arXiv 2006.05929).
        channels: Number of channels, a multiple of four for `gn`.
        size: Height and width, in pixels, for `ln`, which scales every pixel.
    """
    if norm == "bn":
        return nn.BatchNorm2d(channels)
    if norm == "ln":
        return nn.LayerNorm([channels, size, size])
    if norm == "nonorm":
        return nn.Identity()
    return nn.GroupNorm(channels if norm == "in" else NUM_GROUPS, channels)
