"""A perceptron: 411,146 parameters for 32 RGB pixels and 10 classes, as published."""

from __future__ import annotations

from torch import nn

from dim_ray.config import Architecture

__all__ = ["mlp"]


def mlp(architecture: Architecture, *, num_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """Lay out two hidden layers of `architecture.width` units with ReLU, and a linear layer.

    As in the code of Zhao et al., "Dataset Condensation with Gradient Matching" (arXiv 2006.05929), with 128 units.
    """
    width = architecture.width
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(num_channels * image_size**2, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, num_classes),
    )
