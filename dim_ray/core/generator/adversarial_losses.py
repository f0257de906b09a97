"""The adversarial losses on the scores of the adversarial head, and their gradient penalties.

loss = adversarial_loss(config, real_scores, fake_scores)
loss = loss + weight * gradient_penalty(discriminator, real, fake, labels, rng)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dim_ray.config import Precision, PriorConfig
from dim_ray.core.generator.networks import Discriminator
from dim_ray.core.training.precision import call

__all__ = ["adversarial_loss", "gradient_penalty", "zero_centred_penalty"]


def adversarial_loss(config: PriorConfig, real: Tensor, fake: Tensor) -> Tensor:
    """Return S, the part of L_D that judges the scores (B,) of real and generated images, without the penalty."""
    if config.loss == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    if config.loss == "relativistic":
        return F.softplus(fake - real).mean()
    return fake.mean() - real.mean()


def gradient_penalty(
    discriminator: Discriminator,
    real: Tensor,
    fake: Tensor,
    labels: Tensor,
    rng: torch.Generator,
    precision: Precision = "float32",
) -> Tensor:
    """Return E[(|grad D(x~)| - 1)^2] at random points x~ between real and generated images (B, C, H, W).

    `precision` is that of the passes through D, there and back; slopes and their norms are float32.
    """
    share = torch.rand(len(real), 1, 1, 1, generator=rng, device=real.device)
    between = torch.lerp(fake, real, share).requires_grad_(True)
    scores, _ = call(discriminator, precision, between, labels)
    (gradient,) = torch.autograd.grad(scores.float().sum(), between, create_graph=True)
    penalty: Tensor = ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()
    return penalty


def zero_centred_penalty(
    discriminator: Discriminator, images: Tensor, labels: Tensor, precision: Precision = "float32"
) -> Tensor:
    """Return E[|grad D(x)|^2] / 2 + E[|grad D(G(z,y))|^2] / 2 of as many real as generated images (2 B, C, H, W)."""
    images = images.detach().requires_grad_(True)
    scores, _ = call(discriminator, precision, images, labels)
    (gradient,) = torch.autograd.grad(scores.float().sum(), images, create_graph=True)
    penalty: Tensor = gradient.square().sum(dim=(1, 2, 3)).mean()
    return penalty
