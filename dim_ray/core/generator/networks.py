"""The conditional generator that stores a dataset, and the discriminator that trains it.

    generator = build_generator(GeneratorConfig(capacity=64), num_classes=10, num_channels=1, image_size=28, rng=rng)
    images = generator(torch.randn(32, 100), labels)      # (32, 1, 28, 28) in [-1, 1]

At capacity 196 and 28-pixel grey images they have 3,286,921 and 2,969,803 parameters, as in the method's reference
implementation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dim_ray.config import GeneratorConfig
from dim_ray.core.generator import spectral
from dim_ray.core.networks.batch_norm import BatchNorm1d, BatchNorm2d
from dim_ray.core.networks.initialise import initialise

__all__ = ["Discriminator", "Generator", "MapNorm", "build_discriminator", "build_generator", "scales"]

_SMALLEST_SCALE = 4
_DISCRIMINATOR_STRIDES = (1, 2, 1, 2, 1, 1, 1, 2)
_SLOPE = {True: 0.01, False: 0.1}  # of LeakyReLU, with and without layer norm; without, less signal may be lost


class Generator(nn.Module):
    """G(z, y): a linear layer to the smallest scale, then doublings with refining 3x3 convolutions."""

    def __init__(self, config: GeneratorConfig, *, num_classes: int, num_channels: int, image_size: int) -> None:
        super().__init__()
        self.latent_dim = config.resolve_latent_dim(num_classes)
        self.num_classes = num_classes
        length = config.label_embedding
        self.embedding = None if length is None else nn.Embedding(num_classes, length)
        self.image_size = image_size
        capacity, (smallest, *larger) = config.capacity, scales(_inner_size(config, image_size))
        features = capacity * smallest**2
        self.project = nn.Sequential(nn.Linear(self.latent_dim, features), BatchNorm1d(features), nn.ReLU())
        self.unflatten = nn.Unflatten(1, (capacity, smallest, smallest))
        layers: list[nn.Module] = []
        size = smallest
        for index, next_size in enumerate(larger):
            # A kernel of 4 doubles the size exactly; one of 3 gives 2n - 1, for 4 -> 7 on the way to 28.
            kernel = 4 if next_size == 2 * size else 3
            layers += _block(nn.ConvTranspose2d(capacity, capacity, kernel, stride=2, padding=1), capacity)
            for _ in range(config.refinements[index] if index < len(config.refinements) else 0):
                layers += _block(nn.Conv2d(capacity, capacity, 3, padding=1), capacity)
            size = next_size
        self.blocks = nn.Sequential(*layers)
        self.inner_size = size  # of the largest maps
        self.to_image = nn.Conv2d(capacity, num_channels, 3, padding=1)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Generate images.

        Args:
            noise: z, (B, latent_dim) float32 from N(0, I).
            labels: y, (B,) int64 in [0, K). The label, one-hot or embedded, replaces the first entries of z.

        Returns:
            (B, C, H, W) float32 in [-1, 1].
        """
        if self.embedding is None:
            condition = F.one_hot(labels, self.num_classes).to(noise.dtype)
        else:
            condition = self.embedding(labels)
        hidden = self.project(torch.cat([condition, noise[:, condition.shape[1] :]], dim=1))
        images: Tensor = torch.tanh(self.to_image(self.blocks(self.unflatten(hidden))))
        if self.inner_size == self.image_size:
            return images
        return F.interpolate(images, self.image_size, mode="bicubic").clamp(-1, 1)

    def sample(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Generate one image for each label (B,), with noise from `rng`: (B, C, H, W) in [-1, 1]."""
        images: Tensor = self(self.noise(len(labels), rng).to(labels.device), labels)
        return images

    def noise(self, count: int, rng: torch.Generator) -> Tensor:
        """Draw z of `count` images, (count, latent_dim), on the device of `rng`."""
        return torch.randn(count, self.latent_dim, generator=rng, device=rng.device)


class Discriminator(nn.Module):
    """D(x): eight 3x3 convolutions, global maximum, then an adversarial head and a class head.

    With `discriminator_norm: layer`, a layer norm follows each convolution; `build_discriminator` adds spectral norm.
    With `source_head: projection`, the adversarial head adds the inner product with a vector of the label (Miyato and
    Koyama, arXiv 1802.05637), and so sees which images of a class are missing.
    """

    def __init__(self, config: GeneratorConfig, *, num_classes: int, num_channels: int, image_size: int) -> None:
        super().__init__()
        capacity = config.discriminator_capacity or config.capacity
        has_layer_norm, is_projecting = config.discriminator_norm == "layer", config.source_head == "projection"
        layers: list[nn.Module] = []
        channels, size = num_channels, _inner_size(config, image_size)
        self.reduce = nn.Identity() if size == image_size else nn.AdaptiveAvgPool2d(size)
        for stride in _DISCRIMINATOR_STRIDES:
            size = (size + stride - 1) // stride
            layers.append(nn.Conv2d(channels, capacity, 3, stride=stride, padding=1))
            if has_layer_norm:
                layers.append(MapNorm(capacity, size))
            layers.append(nn.LeakyReLU(_SLOPE[has_layer_norm]))
            channels = capacity
        self.features = nn.Sequential(*layers)
        self.source = nn.Linear(capacity, 1)  # the adversarial head, by its name in stored weights
        self.classes = nn.Linear(capacity, num_classes)
        self.projection = nn.Linear(num_classes, capacity, bias=False) if is_projecting else None
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
            hidden = self.features(self.reduce(images)).amax(dim=(2, 3))
            scores, classes = self.source(hidden).squeeze(1), self.classes(hidden)
            if self.projection is not None:
                one_hot = F.one_hot(labels, classes.shape[1]).to(hidden.dtype)
                scores = scores + (self.projection(one_hot) * hidden).sum(dim=1)
        return scores, classes

    def normalise_spectrum(self, rng: torch.Generator) -> None:
        """Keep the largest singular value of each weight that leads to the adversarial score at 1, from now on."""
        convolutions = [part for part in self.features if isinstance(part, nn.Conv2d)]
        self._normalised = [*convolutions, self.source, *([] if self.projection is None else [self.projection])]
        spectral.normalise(self._normalised, rng)

    def follow_spectrum(self) -> None:
        """Take the power iteration that belongs to a step of the discriminator; nothing without spectral norm."""
        spectral.iterate(self._normalised)


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


def build_generator(
    config: GeneratorConfig, *, num_classes: int, num_channels: int, image_size: int, rng: torch.Generator
) -> Generator:
    """Return a freshly initialised generator, on the device of `rng`."""
    with torch.device("meta"):
        network = Generator(config, num_classes=num_classes, num_channels=num_channels, image_size=image_size)
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


def scales(image_size: int) -> list[int]:
    """Return the sizes that a generator passes through, from the smallest: 28 gives [4, 7, 14, 28]."""
    sizes = [image_size]
    while sizes[0] > _SMALLEST_SCALE:
        sizes.insert(0, (sizes[0] + 1) // 2)
    return sizes


def _inner_size(config: GeneratorConfig, image_size: int) -> int:
    """Return the size of the largest maps."""
    return -(-image_size // config.upsampling)


def _block(convolution: nn.Module, capacity: int) -> list[nn.Module]:
    return [convolution, BatchNorm2d(capacity), nn.ReLU()]


def _materialise(network: nn.Module, rng: torch.Generator) -> None:
    network.to_empty(device=rng.device)
    initialise(network, rng)
    network.to(memory_format=torch.channels_last)  # the maps follow the weights
