"""Stage 1: a generator and a discriminator trained against each other on real images, the prior of distillation.

Wasserstein loss with gradient penalty (Gulrajani et al., arXiv 1704.00028, equation 3) plus the class cross-entropy
of an auxiliary classifier (Odena et al., arXiv 1610.09585), which learns its classes from real images alone:

    L_D = E[D(G(z,y))] - E[D(x)] + w_gp E[(|grad D(x~)| - 1)^2] + w_c CE(x, y)
    L_G = -E[D(G(z,y))] + w_c CE(G(z,y), y)

With the hinge loss (Lim and Ye, arXiv 1705.02894), which goes with a discriminator of spectral norm and needs no second
derivative, the source scores of L_D are judged by

    L_D = E[max(0, 1 + D(G(z,y)))] + E[max(0, 1 - D(x))] + w_c CE(x, y)

Either way the discriminator may see all images through differentiable augmentation (Zhao et al., arXiv 2006.10738).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dim_ray.config import HealthConfig, PriorConfig
from dim_ray.core.data.augment import augment
from dim_ray.core.data.dataset import Dataset, signed
from dim_ray.core.generator.adversarial_losses import gradient_penalty, source_loss
from dim_ray.core.generator.health import HealthCheck
from dim_ray.core.generator.networks import Discriminator, Generator
from dim_ray.core.generator.pair import Pair
from dim_ray.core.networks.batch_norm import share_batch_norm
from dim_ray.core.training.loop import Losses, run_epochs
from dim_ray.core.training.ports import Checkpointer, Collective, Reporter
from dim_ray.core.training.precision import autocast
from dim_ray.core.training.random import stream

__all__ = ["discriminator_step", "discriminator_steps", "generator_losses", "generator_step", "train_prior"]

_WARM_UP = 10  # in the decay (1 + n) / (10 + n), the usual one of moving averages of weights


def train_prior(
    pair: Pair,
    config: PriorConfig,
    dataset: Dataset,
    *,
    health: HealthConfig,
    reporter: Reporter,
    checkpointer: Checkpointer,
    collective: Collective,
) -> None:
    """Trains a pair in place for `config.epochs`.

    Raises:
        DivergedError: A loss was not finite, or the networks are no longer healthy.
    """
    device = dataset.train.images.device
    check = HealthCheck(health, config, dataset)
    pair.generator.train()
    pair.discriminator.train()
    share_batch_norm(pair.generator, collective)

    def step(number: int, indices: Tensor) -> Losses:
        rng = stream(config.seed, "adversarial", collective.rank, step=number, device=device)
        real, real_labels = signed(dataset.train.images[indices]), dataset.train.labels[indices]
        discriminator_loss = discriminator_steps(pair, config, real, real_labels, rng, collective, step=number)
        labels = torch.randint(dataset.num_classes, (len(indices),), generator=rng, device=device)
        loss, _ = generator_losses(pair, config, labels, rng)
        generator_step(pair, loss, collective, number=number)
        return {"discriminator_loss": discriminator_loss, "generator_loss": loss.detach()}

    run_epochs(
        stage="prior",
        epochs=config.epochs,
        num_images=len(dataset.train),
        batch_size=config.batch_size,
        seeds=[config.seed],
        device=device,
        step=step,
        capture=pair.state,
        restore=pair.load_state,
        after_epoch=lambda epoch: {},
        reporter=reporter,
        checkpointer=checkpointer,
        collective=collective,
        check=lambda: check(pair),
        patience=health.patience,
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
        fake = _generate(pair.generator, config, real_labels, rng)
    # The discriminator looks at one image at a time, so both halves can share a pass.
    images = augment(torch.cat([real, fake]), config.augmentation, rng)
    source, classes = _judge(pair.discriminator, config, images, real_labels.repeat(2))
    loss = source_loss(config, source[:batch], source[batch:])
    if config.penalty_weight > 0 and number % config.gradient_penalty_every == 0:
        weight = config.penalty_weight * config.gradient_penalty_every
        real, fake = images.split(batch)
        penalty = gradient_penalty(pair.discriminator, real, fake, real_labels, rng, config.precision)
        loss = loss + weight * penalty
    loss = loss + config.class_weight * F.cross_entropy(classes[:batch], real_labels)
    pair.discriminator_optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    collective.average_gradients(pair.discriminator.parameters())
    pair.discriminator_optimizer.step()
    detached: Tensor = loss.detach()
    return detached


def generator_step(pair: Pair, loss: Tensor, collective: Collective, *, number: int | None = None) -> None:
    """Makes one step of the generator down a loss, and one of its moving average.

    Args:
        pair: The networks.
        loss: A scalar.
        collective: Averages gradients.
        number: Of the step since the generator's weights were random, which the average has to forget: step n decays
            by (1 + n) / (10 + n) at most. None for an average that is worth keeping from the start.
    """
    pair.generator_optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss, inputs=list(pair.generator.parameters()))  # and none of a matched teacher's
    pair.discriminator.requires_grad_(True)
    collective.average_gradients(pair.generator.parameters())
    pair.generator_optimizer.step()
    if pair.average is not pair.generator:
        decay = pair.ema_decay if number is None else min(pair.ema_decay, (1 + number) / (_WARM_UP + number))
        with torch.no_grad():
            torch._foreach_lerp_(list(pair.average.parameters()), list(pair.generator.parameters()), 1 - decay)
            for average, latest in zip(pair.average.buffers(), pair.generator.buffers(), strict=True):
                # The statistics belong to the weights: the latest ones would not fit the averaged weights.
                average.lerp_(latest, 1 - decay) if average.is_floating_point() else average.copy_(latest)


def generator_losses(pair: Pair, config: PriorConfig, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns L_G for freshly generated images of `labels` (B,), and those images (B, C, H, W) in [-1, 1].

    The discriminator takes no gradients from it, until `generator_step` is done.
    """
    pair.discriminator.requires_grad_(False)
    images = _generate(pair.generator, config, labels, rng)
    source, classes = _judge(pair.discriminator, config, augment(images, config.augmentation, rng), labels)
    return -source.mean() + config.class_weight * F.cross_entropy(classes, labels), images


def _generate(generator: Generator, config: PriorConfig, labels: Tensor, rng: torch.Generator) -> Tensor:
    with autocast(config.precision, labels.device):
        images = generator.sample(labels, rng)
    return images.float()


def _judge(discriminator: Discriminator, config: PriorConfig, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    with autocast(config.precision, images.device):
        source, classes = discriminator(images, labels)
    return source.float(), classes.float()
