"""Stage 1: a generator and a discriminator trained against each other on real images, the prior of distillation.

Wasserstein loss with gradient penalty (Gulrajani et al., arXiv 1704.00028, equation 3) plus the class cross-entropy
of an auxiliary classifier (Odena et al., arXiv 1610.09585), which learns its classes from real images alone:

    L_D = E[D(G(z,y))] - E[D(x)] + w_gp E[(|grad D(x~)| - 1)^2] + w_c CE(x, y)
    L_G = -E[D(G(z,y))] + w_c CE(G(z,y), y)
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dim_ray.config import GeneratorConfig, PriorConfig
from dim_ray.core.checkpoint import (
    module_tensors,
    optimizer_tensors,
    restore_module,
    restore_optimizer,
    with_prefix,
    without_prefix,
)
from dim_ray.core.data import Dataset, signed
from dim_ray.core.generator import Discriminator, Generator, build_discriminator, build_generator
from dim_ray.core.loop import Losses, run_epochs
from dim_ray.core.ports import Checkpointer, Collective, Reporter
from dim_ray.core.random import stream

__all__ = [
    "Pair",
    "average_statistics",
    "build_pair",
    "discriminator_step",
    "discriminator_steps",
    "generator_losses",
    "generator_step",
    "gradient_penalty",
    "train_prior",
]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A generator and its discriminator with their optimisers."""

    generator: Generator
    average: Generator
    """Moving average of the generator's weights over its steps; with a decay of 0 the generator itself."""
    ema_decay: float
    discriminator: Discriminator
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer

    def weights(self) -> dict[str, Tensor]:
        """Returns the weights of the networks; those of a moving average only where there is one."""
        return {
            name: tensor
            for prefix, network in self._networks().items()
            for name, tensor in with_prefix(prefix, module_tensors(network)).items()
        }

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Loads what `weights` returned."""
        for prefix, network in self._networks().items():
            restore_module(network, without_prefix(prefix, tensors))

    def state(self) -> dict[str, Tensor]:
        """Returns weights and optimiser state."""
        return {
            **self.weights(),
            **with_prefix("generator_optimizer", optimizer_tensors(self.generator_optimizer)),
            **with_prefix("discriminator_optimizer", optimizer_tensors(self.discriminator_optimizer)),
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Loads what `state` returned."""
        self.load_weights(tensors)
        restore_optimizer(self.generator_optimizer, without_prefix("generator_optimizer", tensors))
        restore_optimizer(self.discriminator_optimizer, without_prefix("discriminator_optimizer", tensors))

    def _networks(self) -> dict[str, torch.nn.Module]:
        average = {} if self.average is self.generator else {"average": self.average}
        return {"generator": self.generator, **average, "discriminator": self.discriminator}


def build_pair(
    generator_config: GeneratorConfig,
    prior_config: PriorConfig,
    dataset: Dataset,
    *,
    learning_rate: float,
    seed: int,
) -> Pair:
    """Returns freshly initialised networks for `dataset`, on its device, with Adam.

    Args:
        generator_config: Capacity and the like.
        prior_config: Adam's betas.
        dataset: Decides classes, channels, size and device.
        learning_rate: Of Adam.
        seed: Of the initial weights.
    """
    device = dataset.train.images.device
    shape = {
        "num_classes": dataset.num_classes,
        "num_channels": dataset.num_channels,
        "image_size": dataset.image_size,
    }
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
        discriminator_optimizer=torch.optim.Adam(discriminator.parameters(), learning_rate, betas, fused=True),
    )


def train_prior(
    pair: Pair,
    config: PriorConfig,
    dataset: Dataset,
    *,
    reporter: Reporter,
    checkpointer: Checkpointer,
    collective: Collective,
) -> None:
    """Trains a pair in place for `config.epochs`.

    Raises:
        DivergedError: A loss was not finite.
    """
    device = dataset.train.images.device
    pair.generator.train()
    pair.discriminator.train()

    def step(number: int, indices: Tensor) -> Losses:
        rng = stream(config.seed, "adversarial", collective.rank, step=number, device=device)
        real, real_labels = signed(dataset.train.images[indices]), dataset.train.labels[indices]
        discriminator_loss = discriminator_steps(pair, config, real, real_labels, rng, collective, step=number)
        labels = torch.randint(dataset.num_classes, (len(indices),), generator=rng, device=device)
        loss, _ = generator_losses(pair, config, labels, rng)
        generator_step(pair, loss, collective)
        return {"discriminator_loss": discriminator_loss, "generator_loss": loss.detach()}

    run_epochs(
        stage="prior",
        epochs=config.epochs,
        num_images=len(dataset.train),
        batch_size=config.batch_size,
        seed=config.seed,
        device=device,
        step=step,
        capture=pair.state,
        restore=pair.load_state,
        after_epoch=lambda epoch: {},
        reporter=reporter,
        checkpointer=checkpointer,
        collective=collective,
        synchronise=lambda: average_statistics(pair, collective),
    )


def discriminator_steps(
    pair: Pair,
    config: PriorConfig,
    real: Tensor,
    real_labels: Tensor,
    rng: torch.Generator,
    collective: Collective,
    *,
    step: int,
) -> Tensor:
    """Makes the discriminator's steps of training step `step`, and returns the last L_D, a detached scalar."""
    for index in range(config.discriminator_steps):
        number = step * config.discriminator_steps + index
        loss = discriminator_step(pair, config, real, real_labels, rng, collective, number=number)
    return loss


def discriminator_step(
    pair: Pair,
    config: PriorConfig,
    real: Tensor,
    real_labels: Tensor,
    rng: torch.Generator,
    collective: Collective,
    *,
    number: int = 0,
) -> Tensor:
    """Makes one step of the discriminator.

    Args:
        pair: The networks.
        config: Weights of the loss.
        real: (B, C, H, W) float32 in [-1, 1].
        real_labels: (B,) int64.
        rng: Draws noise and interpolation.
        collective: Averages gradients.
        number: Of the step since training began: decides whether the penalty is due (lazy regularisation, Karras et
            al., arXiv 1912.04958, appendix B).

    Returns:
        L_D, a detached scalar.
    """
    batch = len(real)
    with torch.no_grad():
        fake = pair.generator.sample(real_labels, rng)
    # Layer norm sees one image at a time, so both halves can share a pass.
    source, classes = pair.discriminator(torch.cat([real, fake]), real_labels.repeat(2))
    loss = source[batch:].mean() - source[:batch].mean()
    if number % config.gradient_penalty_every == 0:
        weight = config.gradient_penalty_weight * config.gradient_penalty_every
        loss = loss + weight * gradient_penalty(pair.discriminator, real, fake, real_labels, rng)
    loss = loss + config.class_weight * F.cross_entropy(classes[:batch], real_labels)
    pair.discriminator_optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    collective.average_gradients(pair.discriminator.parameters())
    pair.discriminator_optimizer.step()
    detached: Tensor = loss.detach()
    return detached


def generator_step(pair: Pair, loss: Tensor, collective: Collective) -> None:
    """Makes one step of the generator down a loss, and one of its moving average."""
    pair.generator_optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss, inputs=list(pair.generator.parameters()))  # and none of a matched teacher's
    pair.discriminator.requires_grad_(True)
    collective.average_gradients(pair.generator.parameters())
    pair.generator_optimizer.step()
    if pair.average is not pair.generator:
        with torch.no_grad():
            torch._foreach_lerp_(list(pair.average.parameters()), list(pair.generator.parameters()), 1 - pair.ema_decay)
            for average, latest in zip(pair.average.buffers(), pair.generator.buffers(), strict=True):
                # The statistics belong to the weights: the latest ones would not fit the averaged weights.
                average.lerp_(latest, 1 - pair.ema_decay) if average.is_floating_point() else average.copy_(latest)


def gradient_penalty(
    discriminator: Discriminator, real: Tensor, fake: Tensor, labels: Tensor, rng: torch.Generator
) -> Tensor:
    """Returns E[(|grad D(x~)| - 1)^2] at random points between real and generated images (B, C, H, W)."""
    share = torch.rand(len(real), 1, 1, 1, generator=rng, device=real.device)
    between = torch.lerp(fake, real, share).requires_grad_(True)
    source, _ = discriminator(between, labels)
    (gradient,) = torch.autograd.grad(source.sum(), between, create_graph=True)
    penalty: Tensor = ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()
    return penalty


def average_statistics(pair: Pair, collective: Collective) -> None:
    """Gives every worker's generator the mean of the workers' BatchNorm statistics."""
    collective.average_buffers(pair.generator)
    if pair.average is not pair.generator:
        collective.average_buffers(pair.average)


def generator_losses(pair: Pair, config: PriorConfig, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns L_G for freshly generated images of `labels` (B,), and those images (B, C, H, W) in [-1, 1].

    The discriminator takes no gradients from it, until `generator_step` is done.
    """
    pair.discriminator.requires_grad_(False)
    images = pair.generator.sample(labels, rng)
    source, classes = pair.discriminator(images, labels)
    return -source.mean() + config.class_weight * F.cross_entropy(classes, labels), images
