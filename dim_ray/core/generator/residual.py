"""The residual family: the layers of a generator and of a discriminator.

Residual blocks with class-conditional batch norm in the generator, and with spectral norm and a sum over positions in
the discriminator (Miyato and Koyama, arXiv 1802.05637). Convolutions that may run at the smaller of a block's two sizes
do: a pass costs about as much as one of the paper's networks of the same capacity.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dim_ray.config import GeneratorConfig
from dim_ray.core.generator.base import Generator, scales
from dim_ray.core.networks.batch_norm import BatchNorm2d

__all__ = ["ResidualGenerator", "residual_features"]

_LARGEST_FEATURES = 8  # pixels of the maps that the discriminator sums


class ResidualGenerator(Generator):
    """A linear layer to the smallest scale, then a residual block for each doubling."""

    def __init__(self, config: GeneratorConfig, *, num_classes: int, num_channels: int, image_size: int) -> None:
        super().__init__(config, num_classes=num_classes)
        capacity, (smallest, *larger) = config.capacity, scales(image_size)
        self.project = nn.Linear(self.latent_dim, capacity * smallest**2)
        self.unflatten = nn.Unflatten(1, (capacity, smallest, smallest))
        self.blocks = nn.ModuleList(_Up(capacity, num_classes, size) for size in larger)
        self.norm = BatchNorm2d(capacity)
        self.to_image = nn.Conv2d(capacity, num_channels, 3, padding=1)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        maps = self.unflatten(self.project(noise))
        for block in self.blocks:
            maps = block(maps, labels)
        images: Tensor = torch.tanh(self.to_image(F.relu(self.norm(maps))))
        return images


class _Up(nn.Module):
    """A residual block whose maps grow to `size`."""

    def __init__(self, capacity: int, num_classes: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.first_norm, self.second_norm = _ClassNorm(capacity, num_classes), _ClassNorm(capacity, num_classes)
        self.first = nn.Conv2d(capacity, capacity, 3, padding=1)
        self.second = nn.Conv2d(capacity, capacity, 3, padding=1)

    def forward(self, maps: Tensor, labels: Tensor) -> Tensor:
        hidden = self.first(F.relu(self.first_norm(maps, labels)))
        hidden = F.relu(self.second_norm(F.interpolate(hidden, self.size), labels))
        grown: Tensor = F.interpolate(maps, self.size) + self.second(hidden)
        return grown


class _ClassNorm(nn.Module):
    """Batch norm with a scale and a shift for each class, on top of those of all."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = BatchNorm2d(channels)
        self.scale = nn.Linear(num_classes, channels, bias=False)
        self.shift = nn.Linear(num_classes, channels, bias=False)

    def forward(self, maps: Tensor, labels: Tensor) -> Tensor:
        one_hot = F.one_hot(labels, self.scale.in_features).to(self.scale.weight.dtype)
        scale, shift = self.scale(one_hot)[:, :, None, None], self.shift(one_hot)[:, :, None, None]
        normal = self.norm(maps)
        classed: Tensor = normal + (normal * scale + shift).to(normal.dtype)
        return classed


def residual_features(config: GeneratorConfig, capacity: int, *, num_channels: int, image_size: int) -> nn.Sequential:
    """Return the discriminator's layers from images to maps of at most 8 pixels."""
    layers: list[nn.Module] = [nn.Conv2d(num_channels, capacity, 3, padding=1)]
    size = image_size
    while size > _LARGEST_FEATURES:
        layers += [nn.AvgPool2d(2, ceil_mode=True), _Residual(capacity)]
        size = (size + 1) // 2
    return nn.Sequential(*layers, _Residual(capacity), nn.ReLU())


class _Residual(nn.Module):
    """A residual block of one size."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(capacity, capacity, 3, padding=1)
        self.second = nn.Conv2d(capacity, capacity, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        changed: Tensor = maps + self.second(F.relu(self.first(F.relu(maps))))
        return changed
