"""What both families share: a generator's noise and its way to images, and the discriminator's layer norm."""

from __future__ import annotations

import copy
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dim_ray.config import GeneratorConfig

__all__ = ["Generator", "MapNorm", "inner_size", "scales"]

_SMALLEST_SCALE = 4


class Generator(nn.Module):
    """G(z, y)."""

    to_image: nn.Conv2d
    """The last layer."""

    def __init__(self, config: GeneratorConfig, *, num_classes: int, image_size: int) -> None:
        super().__init__()
        self.image_size, self.inner_size = image_size, inner_size(config, image_size)
        self.latent_dim = config.resolve_latent_dim(num_classes)
        self.num_classes = num_classes

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Generate images.

        Args:
            noise: z, (B, latent_dim) float32 from N(0, I).
            labels: y, (B,) int64 in [0, K). In the paper's family the label, one-hot or embedded, replaces the first
                entries of z.

        Returns:
            (B, C, H, W) float32 in [-1, 1].
        """
        images: Tensor = torch.tanh(self.to_image(self.last_maps(noise, labels)))
        if self.inner_size == self.image_size:
            return images
        return F.interpolate(images, self.image_size, mode="bicubic").clamp(-1, 1)

    def last_maps(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Return the maps (B, capacity, inner_size, inner_size) that the last layer turns into images."""
        raise NotImplementedError

    def sample(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Generate one image for each label (B,), with noise from `rng`: (B, C, H, W) in [-1, 1]."""
        images: Tensor = self(self.noise(len(labels), rng).to(labels.device), labels)
        return images

    def noise(self, count: int, rng: torch.Generator) -> Tensor:
        """Draw z of `count` images, (count, latent_dim), on the device of `rng`."""
        return torch.randn(count, self.latent_dim, generator=rng, device=rng.device)

    def folded(self) -> Self:
        """Return a copy for eval mode, if possible with batch norms in the layers before them: fewer passes."""
        return copy.deepcopy(self).eval().requires_grad_(False)


class MapNorm(nn.Module):
    """Layer norm of whole maps (B, C, H, W), each value with its own scale and shift.

    Works in the maps' order in memory, channels last: nn.LayerNorm's order would copy them, there and back, in each
    pass and its derivatives.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm([size, size, channels])

    def forward(self, maps: Tensor) -> Tensor:
        normal: Tensor = self.norm(maps.permute(0, 2, 3, 1))
        return normal.permute(0, 3, 1, 2)


def inner_size(config: GeneratorConfig, image_size: int) -> int:
    """Return the size of the images before they are enlarged, which the discriminator judges."""
    return -(-image_size // config.upsampling)


def scales(image_size: int) -> list[int]:
    """Return the sizes that a generator passes through, from the smallest: 28 gives [4, 7, 14, 28]."""
    sizes = [image_size]
    while sizes[0] > _SMALLEST_SCALE:
        sizes.insert(0, (sizes[0] + 1) // 2)
    return sizes
