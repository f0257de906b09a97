"""Norms of hidden layers, by name."""

from __future__ import annotations

from torch import nn

from dim_ray.config import NUM_GROUPS, Norm

__all__ = ["make_norm"]


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
