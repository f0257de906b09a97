"""The conditional generator that stores a dataset, and the discriminator that trains it.

    generator = build_generator(GeneratorConfig(capacity=64), num_classes=10, num_channels=1, image_size=28, rng=rng)
    images = generator(torch.randn(32, 100), labels)      # (32, 1, 28, 28) in [-1, 1]

The layers are those of a family, `paper` or `residual`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dim_ray.config import GeneratorConfig
from dim_ray.core.generator import spectral
from dim_ray.core.generator.base import Generator, inner_size
from dim_ray.core.generator.paper import PaperGenerator, paper_features
from dim_ray.core.generator.residual import ResidualGenerator, residual_features
from dim_ray.core.networks.initialise import initialise

__all__ = ["Discriminator", "Generator", "build_discriminator", "build_generator"]


class Discriminator(nn.Module):
    """D(x): features, one number for each, then an adversarial head and a class head.

    The number is a feature's maximum over positions in the paper's family, and its sum in the residual one. With
    `source_head: projection`, the adversarial head adds the inner product with a vector of the label (Miyato and
    Koyama, arXiv 1802.05637), and so sees which images of a class are missing.
    """

    def __init__(self, config: GeneratorConfig, *, num_classes: int, num_channels: int, image_size: int) -> None:
        super().__init__()
        capacity = config.discriminator_capacity or config.capacity
        self.is_summing = config.family == "residual"
        make = residual_features if self.is_summing else paper_features
        size = inner_size(config, image_size)
        self.reduce = nn.Identity() if size == image_size else nn.AdaptiveAvgPool2d(size)
        self.features, width = make(config, capacity, num_channels=num_channels, image_size=size)
        self.source = nn.Linear(width, 1)  # the adversarial head, by its name in stored weights
        self.classes = nn.Linear(width, num_classes)
        is_projecting = config.source_head == "projection"
        self.projection = nn.Linear(num_classes, width, bias=False) if is_projecting else None
        self._normalised: list[spectral.Part] = []

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Judge images.

        Args:
            images: (B, C, H, W) float32 in [-1, 1].
            labels: (B,) int64 in [0, K); what the images are meant to be.

        Returns:
            Adversarial scores (B,), higher for real; class logits (B, K).
        """
        with spectral.divided(self._normalised):
            maps = self.features(self.reduce(images))
            hidden = maps.sum(dim=(2, 3)) if self.is_summing else maps.amax(dim=(2, 3))
            scores = self.source(hidden).squeeze(1)
            # The class head has no spectral norm, which would hold its logits of sums in check.
            classes = self.classes(maps.mean(dim=(2, 3)) if self.is_summing else hidden)
            if self.projection is not None:
                one_hot = F.one_hot(labels, classes.shape[1]).to(hidden.dtype)
                scores = scores + (self.projection(one_hot) * hidden).sum(dim=1)
        return scores, classes

    def normalise_spectrum(self, rng: torch.Generator) -> None:
        """Keep the largest singular value of each weight that leads to the adversarial score at 1, from now on."""
        convolutions = [part for part in self.features.modules() if isinstance(part, nn.Conv2d)]
        self._normalised = [*convolutions, self.source, *([] if self.projection is None else [self.projection])]
        spectral.normalise(self._normalised, rng)

    def follow_spectrum(self) -> None:
        """Take the power iteration that belongs to a step of the discriminator; nothing without spectral norm."""
        spectral.iterate(self._normalised)


def build_generator(
    config: GeneratorConfig, *, num_classes: int, num_channels: int, image_size: int, rng: torch.Generator
) -> Generator:
    """Return a freshly initialised generator, on the device of `rng`."""
    with torch.device("meta"):
        network = (ResidualGenerator if config.family == "residual" else PaperGenerator)(
            config, num_classes=num_classes, num_channels=num_channels, image_size=image_size
        )
    _materialise(network, rng)
    return network


def build_discriminator(
    config: GeneratorConfig, *, num_classes: int, num_channels: int, image_size: int, rng: torch.Generator
) -> Discriminator:
    """Return a freshly initialised discriminator, on the device of `rng`."""
    with torch.device("meta"):
        network = Discriminator(config, num_classes=num_classes, num_channels=num_channels, image_size=image_size)
    _materialise(network, rng)
    if config.discriminator_norm == "spectral":
        network.normalise_spectrum(rng)
    return network


def _materialise(network: nn.Module, rng: torch.Generator) -> None:
    network.to_empty(device=rng.device)
    initialise(network, rng)
    network.to(memory_format=torch.channels_last)  # the maps follow the weights
