"""A perceptron, which knows nothing of the neighbourhood of pixels.

    network = mlp(check_architecture("mlp"), num_channels=3, num_classes=10, image_size=32)

That one has 411,146 parameters, as its published layers have.
"""

from __future__ import annotations

from torch import nn

from dim_ray.config import Architecture

__all__ = ["mlp"]


def mlp(architecture: Architecture, *, num_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """Lays out two hidden layers of `architecture.width` units with ReLU, and a linear layer.

    As in the code of Zhao et al., "Dataset Condensation with Gradient Matching" (arXiv 2006.05929), where the width is
    128.
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
