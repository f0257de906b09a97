"""The paper's family: the layers of a generator and of a discriminator.

At capacity 196 and 28-pixel grey images they have 3,286,921 and 2,969,803 parameters, as in the method's reference
implementation.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from dim_ray.config import GeneratorConfig
from dim_ray.core.generator.base import Generator, MapNorm, scales
from dim_ray.core.networks.batch_norm import BatchNorm1d, BatchNorm2d

__all__ = ["PaperGenerator", "paper_features"]

_DISCRIMINATOR_STRIDES = (1, 2, 1, 2, 1, 1, 1, 2)
_SLOPE = {True: 0.01, False: 0.1}  # of LeakyReLU, with and without layer norm; without, less signal may be lost


class PaperGenerator(Generator):
    """A linear layer to the smallest scale, then doublings with refining 3x3 convolutions."""

    def __init__(self, config: GeneratorConfig, *, num_classes: int, num_channels: int, image_size: int) -> None:
        super().__init__(config, num_classes=num_classes, image_size=image_size)
        length = config.label_embedding
        self.embedding = None if length is None else nn.Embedding(num_classes, length)
        capacity, (smallest, *larger) = config.capacity, scales(self.inner_size)
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
        self.to_image = nn.Conv2d(capacity, num_channels, 3, padding=1)

    def last_maps(self, noise: Tensor, labels: Tensor) -> Tensor:
        if self.embedding is None:
            condition = F.one_hot(labels, self.num_classes).to(noise.dtype)
        else:
            condition = self.embedding(labels)
        hidden = self.project(torch.cat([condition, noise[:, condition.shape[1] :]], dim=1))
        maps: Tensor = self.blocks(self.unflatten(hidden))
        return maps

    def folded(self) -> PaperGenerator:
        copied = copy.deepcopy(self).eval().requires_grad_(False)
        for layers in (copied.project, copied.blocks):
            for index in range(0, len(layers), 3):  # a layer, its norm and a ReLU
                layer, norm = layers[index], layers[index + 1]
                assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
                if isinstance(layer, nn.Linear):
                    layers[index] = fuse_linear_bn_eval(layer, norm)
                elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                    layers[index] = fuse_conv_bn_eval(layer, norm, isinstance(layer, nn.ConvTranspose2d))
                layers[index + 1], layers[index + 2] = nn.Identity(), nn.ReLU(inplace=True)
        return copied


def paper_features(
    config: GeneratorConfig, capacity: int, *, num_channels: int, image_size: int
) -> tuple[nn.Sequential, int]:
    """Return eight 3x3 convolutions, each with a layer norm if `discriminator_norm: layer`, and their channels."""
    has_layer_norm = config.discriminator_norm == "layer"
    layers: list[nn.Module] = []
    channels, size = num_channels, image_size
    for stride in _DISCRIMINATOR_STRIDES:
        size = (size + stride - 1) // stride
        layers.append(nn.Conv2d(channels, capacity, 3, stride=stride, padding=1))
        if has_layer_norm:
            layers.append(MapNorm(capacity, size))
        layers.append(nn.LeakyReLU(_SLOPE[has_layer_norm]))
        channels = capacity
    return nn.Sequential(*layers), capacity


def _block(convolution: nn.Module, capacity: int) -> list[nn.Module]:
    return [convolution, BatchNorm2d(capacity), nn.ReLU()]
