"""A generator and its discriminator with their optimisers, which both stages train, save and load.

pair = build_pair(config.generator, config.prior, dataset, learning_rate=1e-4, seed=0)
pair.load_weights(tensors)
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dim_ray.config import GeneratorConfig, PriorConfig
from dim_ray.core.data.dataset import Dataset
from dim_ray.core.generator.networks import Discriminator, Generator, build_discriminator, build_generator
from dim_ray.core.training.checkpoint import optimizer_tensors, restore_optimizer, with_prefix, without_prefix
from dim_ray.core.training.random import stream

__all__ = ["Pair", "build_pair"]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A generator and its discriminator with their optimisers."""

    generator: Generator
    average: Generator
    """Moving average of the generator over its steps; the generator itself if the decay is 0."""
    ema_decay: float
    discriminator: Discriminator
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer

    def weights(self) -> dict[str, Tensor]:
        """Return the weights of the networks; those of a moving average only where there is one."""
        return {
            name: tensor
            for prefix, network in self._networks().items()
            for name, tensor in with_prefix(prefix, network.state_dict()).items()
        }

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what `weights` returned."""
        for prefix, network in self._networks().items():
            network.load_state_dict(without_prefix(prefix, tensors))

    def state(self) -> dict[str, Tensor]:
        """Return weights and optimiser state."""
        return {
            **self.weights(),
            **with_prefix("generator_optimizer", optimizer_tensors(self.generator_optimizer)),
            **with_prefix("discriminator_optimizer", optimizer_tensors(self.discriminator_optimizer)),
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what `state` returned."""
        self.load_weights(tensors)
        restore_optimizer(self.generator_optimizer, without_prefix("generator_optimizer", tensors))
        restore_optimizer(self.discriminator_optimizer, without_prefix("discriminator_optimizer", tensors))

    def _networks(self) -> dict[str, torch.nn.Module]:
        average = {} if self.average is self.generator else {"average": self.average}
        return {"generator": self.generator, **average, "discriminator": self.discriminator}


def build_pair(
    generator_config: GeneratorConfig, prior_config: PriorConfig, dataset: Dataset, *, learning_rate: float, seed: int
) -> Pair:
    """Return freshly initialised networks for `dataset`, on its device, with Adam and the betas of `prior_config`."""
    device = dataset.device
    shape = {name: getattr(dataset, name) for name in ("num_classes", "num_channels", "image_size")}
    generator = build_generator(generator_config, rng=stream(seed, "generator", device=device), **shape)
    discriminator = build_discriminator(generator_config, rng=stream(seed, "discriminator", device=device), **shape)
    average = copy.deepcopy(generator).requires_grad_(False) if generator_config.ema_decay else generator
    betas = (prior_config.beta1, prior_config.beta2)
    return Pair(
        generator=generator,
        average=average,
        ema_decay=generator_config.ema_decay,
        discriminator=discriminator,
        generator_optimizer=torch.optim.Adam(generator.parameters(), learning_rate, betas, fused=True),
        discriminator_optimizer=torch.optim.Adam(
            discriminator.parameters(), learning_rate * prior_config.discriminator_rate, betas, fused=True
        ),
    )
