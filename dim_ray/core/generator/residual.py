"""The residual family: the layers of a generator and of a discriminator.

Residual blocks with class-conditional batch norm in the generator, and a sum over positions in the discriminator
(Miyato and Koyama, arXiv 1802.05637). The capacity is the number of channels of the largest maps; each
halving doubles them, up to four times as many, so that no size costs much more than another.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from dim_ray.config import GeneratorConfig
from dim_ray.core.generator.base import Generator, MapNorm, scales
from dim_ray.core.networks.batch_norm import BatchNorm2d

__all__ = ["ResidualGenerator", "residual_features"]

_WIDEST = 4  # times the capacity
_LARGEST_FEATURES = 8  # pixels of the maps that the discriminator sums


class ResidualGenerator(Generator):
    """A linear layer to the smallest scale, then a residual block for each doubling, which halves the channels."""

    def __init__(self, config: GeneratorConfig, *, num_classes: int, num_channels: int, image_size: int) -> None:
        super().__init__(config, num_classes=num_classes, image_size=image_size)
        sizes = scales(self.inner_size)
        widths = list(reversed(_widths(config.capacity, len(sizes))))
        self.project = nn.Linear(self.latent_dim, widths[0] * sizes[0] ** 2)
        self.unflatten = nn.Unflatten(1, (widths[0], sizes[0], sizes[0]))
        self.blocks = nn.ModuleList(
            _Up(given, made, num_classes, size) for (given, made), size in zip(pairwise(widths), sizes[1:], strict=True)
        )
        self.norm = BatchNorm2d(config.capacity)
        self.to_image = nn.Conv2d(config.capacity, num_channels, 3, padding=1)

    def last_maps(self, noise: Tensor, labels: Tensor) -> Tensor:
        maps = self.unflatten(self.project(noise))
        for block in self.blocks:
            maps = block(maps, labels)
        return F.relu(self.norm(maps))


class _Up(nn.Module):
    """A residual block whose maps grow to `size`."""

    def __init__(self, given: int, made: int, num_classes: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.first_norm, self.second_norm = _ClassNorm(given, num_classes), _ClassNorm(made, num_classes)
        self.first = nn.Conv2d(given, made, 3, padding=1)
        self.second = nn.Conv2d(made, made, 3, padding=1)
        self.shortcut = _shortcut(given, made)

    def forward(self, maps: Tensor, labels: Tensor) -> Tensor:
        hidden = self.first(F.relu(self.first_norm(maps, labels)))
        hidden = F.relu(self.second_norm(F.interpolate(hidden, self.size), labels))
        grown: Tensor = F.interpolate(self.shortcut(maps), self.size) + self.second(hidden)
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


def residual_features(
    config: GeneratorConfig, capacity: int, *, num_channels: int, image_size: int
) -> tuple[nn.Sequential, int]:
    """Return the discriminator's layers from images to maps of at most 8 pixels, and these maps' channels."""
    sizes = [image_size]
    while sizes[-1] > _LARGEST_FEATURES:
        sizes.append((sizes[-1] + 1) // 2)
    widths = _widths(capacity, len(sizes))
    layers: list[nn.Module] = [nn.Conv2d(num_channels, capacity, 3, padding=1)]
    layers += [_Down(config, *channels, size) for channels, size in zip(pairwise(widths), sizes, strict=False)]
    layers += [_Residual(config, widths[-1], sizes[-1]), _norm(config, widths[-1], sizes[-1]), nn.ReLU()]
    return nn.Sequential(*layers), widths[-1]


class _Down(nn.Module):
    """A residual block that halves its maps of `size`."""

    def __init__(self, config: GeneratorConfig, given: int, made: int, size: int) -> None:
        super().__init__()
        self.first_norm, self.second_norm = _norm(config, given, size), _norm(config, given, size)
        self.first = nn.Conv2d(given, given, 3, padding=1)
        self.second = nn.Conv2d(given, made, 3, padding=1)
        self.shortcut = _shortcut(given, made)
        self.halve = nn.AvgPool2d(2, ceil_mode=True)

    def forward(self, maps: Tensor) -> Tensor:
        hidden = F.relu(self.second_norm(self.first(F.relu(self.first_norm(maps)))))
        shrunk: Tensor = self.shortcut(self.halve(maps)) + self.second(self.halve(hidden))
        return shrunk


class _Residual(nn.Module):
    """A residual block of one size."""

    def __init__(self, config: GeneratorConfig, channels: int, size: int) -> None:
        super().__init__()
        self.first_norm, self.second_norm = _norm(config, channels, size), _norm(config, channels, size)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        hidden = self.first(F.relu(self.first_norm(maps)))
        changed: Tensor = maps + self.second(F.relu(self.second_norm(hidden)))
        return changed


def _norm(config: GeneratorConfig, channels: int, size: int) -> nn.Module:
    return MapNorm(channels, size) if config.discriminator_norm == "layer" else nn.Identity()


def _shortcut(given: int, made: int) -> nn.Module:
    return nn.Identity() if given == made else nn.Conv2d(given, made, 1)


def _widths(capacity: int, count: int) -> list[int]:
    """Return the channels at `count` sizes, from the image's to the smallest."""
    return [capacity * min(2**halvings, _WIDEST) for halvings in range(count)]
