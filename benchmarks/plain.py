"""Every training step as it's usually first written: eager, float32, channels first, a pass for each half.

The slow reference of the benchmarks. It draws from the same random streams as `dim_ray.core`, and tests hold the two to
the same results; what it leaves out is everything that is done for speed.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dim_ray.config import EvaluationConfig, MatchingConfig, PoolConfig, PriorConfig
from dim_ray.core.data.augment import augment, draw_augmentation
from dim_ray.core.data.dataset import Dataset
from dim_ray.core.generator.base import MapNorm
from dim_ray.core.generator.pair import Pair

__all__ = ["adversarial_step", "classifier_step", "make_plain", "matching_step"]


def make_plain(pair: Pair) -> Pair:
    """Return the same networks, in place, with channels first, PyTorch's layer norm and Adam a parameter at a time."""
    features = pair.discriminator.features
    for index, layer in enumerate(features):
        if isinstance(layer, MapNorm):
            features[index] = _usual_norm(layer.norm)

    def adam(network: nn.Module, used: torch.optim.Optimizer) -> torch.optim.Adam:
        network.to(memory_format=torch.contiguous_format)
        (group,) = used.param_groups
        return torch.optim.Adam(network.parameters(), group["lr"], group["betas"], foreach=False)

    return replace(
        pair,
        generator_optimizer=adam(pair.generator, pair.generator_optimizer),
        discriminator_optimizer=adam(pair.discriminator, pair.discriminator_optimizer),
    )


def adversarial_step(
    pair: Pair, config: PriorConfig, real: Tensor, real_labels: Tensor, labels: Tensor, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Make one step of both networks with the loss of WGAN-GP, and returns L_D and L_G.

    Args:
        pair: The networks.
        config: Weights of the loss.
        real: (B, C, H, W) in [-1, 1].
        real_labels: (B,), of these.
        labels: (B,), of what the generator's step generates.
        rng: Draws noise and interpolation.
    """
    critic = _discriminator_step(pair, config, real, real_labels, rng)
    loss, _ = _generator_loss(pair, config, labels, rng)
    _descend(pair.generator_optimizer, loss)
    return critic, loss.detach()


def matching_step(
    pair: Pair,
    prior_config: PriorConfig,
    config: MatchingConfig,
    dataset: Dataset,
    teacher: nn.Module,
    images: Tensor,
    labels: Tensor,
    rng: torch.Generator,
    choices: torch.Generator,
) -> Tensor:
    """Make one step of both networks that matches the logits of one teacher, and returns that distance.

    Args:
        pair: The networks.
        prior_config: Weights of the adversarial loss.
        config: Weight and augmentation of the matching.
        dataset: Normalisation.
        teacher: In eval mode.
        images: (B, C, H, W) uint8.
        labels: (B,).
        rng: Draws noise and interpolation.
        choices: Draws the augmentation.
    """
    _discriminator_step(pair, prior_config, images / 255 * 2 - 1, labels, rng)
    loss, fake = _generator_loss(pair, prior_config, labels, rng)
    change = draw_augmentation(config.augmentation, choices)
    real_logits = teacher(change(_normalise(images / 255, dataset))).detach()
    fake_logits = teacher(change(_normalise((fake + 1) / 2, dataset)))
    distance = ((F.log_softmax(real_logits, dim=1) - F.log_softmax(fake_logits, dim=1)) ** 2).mean()
    _descend(pair.generator_optimizer, config.adversarial_weight * loss + config.weight * distance)
    return distance.detach()


def classifier_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: PoolConfig | EvaluationConfig,
    images: Tensor,
    labels: Tensor,
    rng: torch.Generator,
) -> Tensor:
    """Make one step of a teacher or student on normalised images (B, C, H, W), and returns the cross-entropy."""
    loss = F.cross_entropy(network(augment(images, config.augmentation, rng)), labels)
    _descend(optimizer, loss)
    return loss.detach()


def _usual_norm(norm: nn.LayerNorm) -> nn.LayerNorm:
    """Return a norm of maps (C, H, W) with the values of one of (H, W, C)."""
    height, width, channels = norm.normalized_shape
    usual = nn.LayerNorm([channels, height, width])
    usual.load_state_dict({name: values.permute(2, 0, 1) for name, values in norm.state_dict().items()})
    return usual.to(norm.weight.device)


def _discriminator_step(pair: Pair, config: PriorConfig, real: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
    fake = _generate(pair, labels, rng).detach()
    real_source, real_classes = pair.discriminator(real, labels)
    fake_source, _ = pair.discriminator(fake, labels)
    share = torch.rand(len(real), 1, 1, 1, generator=rng, device=real.device)
    between = (share * real + (1 - share) * fake).requires_grad_(True)
    source, _ = pair.discriminator(between, labels)
    (gradient,) = torch.autograd.grad(source, between, torch.ones_like(source), create_graph=True)
    penalty = ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()
    loss = fake_source.mean() - real_source.mean() + config.penalty_weight * penalty
    loss = loss + config.class_weight * F.cross_entropy(real_classes, labels)
    _descend(pair.discriminator_optimizer, loss)
    detached: Tensor = loss.detach()
    return detached


def _generator_loss(pair: Pair, config: PriorConfig, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    images = _generate(pair, labels, rng)
    source, classes = pair.discriminator(images, labels)
    return config.class_weight * F.cross_entropy(classes, labels) - source.mean(), images


def _generate(pair: Pair, labels: Tensor, rng: torch.Generator) -> Tensor:
    noise = torch.randn(len(labels), pair.generator.latent_dim, generator=rng, device=rng.device)
    images: Tensor = pair.generator(noise, labels)
    return images


def _normalise(images: Tensor, dataset: Dataset) -> Tensor:
    mean, std = (
        torch.tensor(values, device=images.device)[:, None, None]
        for values in (dataset.normalisation.mean, dataset.normalisation.std)
    )
    return (images - mean) / std


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
