"""Stage 1: a generator and a discriminator trained against each other on real images, the prior of distillation.

Wasserstein loss with gradient penalty (Gulrajani et al., arXiv 1704.00028, equation 3) plus the class cross-entropy
of an auxiliary classifier (Odena et al., arXiv 1610.09585), which learns its classes from real images, and with
`prior.class_loss_on: both` also from generated ones, + w_c CE(G(z,y), y):

    L_D = E[D(G(z,y))] - E[D(x)] + w_gp E[(|grad D(x~)| - 1)^2] + w_c CE(x, y)
    L_G = -E[D(G(z,y))] + w_c CE(G(z,y), y)

The hinge loss (Lim and Ye, arXiv 1705.02894), for a discriminator with spectral norm, needs no second derivative:

    L_D = E[max(0, 1 + D(G(z,y)))] + E[max(0, 1 - D(x))] + w_c CE(x, y)

The relativistic loss judges pairs of a real and a generated image, and its penalty pulls the slopes at both to 0
(R3GAN: Huang et al., arXiv 2501.05441):

    L_D = E[softplus(D(G(z,y)) - D(x))] + w_gp (E[|grad D(x)|^2] + E[|grad D(G(z,y))|^2]) / 2 + w_c CE(x, y)
    L_G = E[softplus(D(x) - D(G(z,y)))] + w_c CE(G(z,y), y)

With any, the discriminator may see all images through differentiable augmentation (Zhao et al., arXiv 2006.10738).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from dim_ray.config import HealthConfig, PriorConfig
from dim_ray.core.data.augment import augment
from dim_ray.core.data.dataset import Dataset, signed
from dim_ray.core.generator.adversarial_losses import adversarial_loss, gradient_penalty, zero_centred_penalty
from dim_ray.core.generator.health import HealthCheck
from dim_ray.core.generator.networks import Discriminator, Generator
from dim_ray.core.generator.pair import Pair
from dim_ray.core.networks.batch_norm import share_batch_norm
from dim_ray.core.training.loop import Losses, Stage
from dim_ray.core.training.ports import Collective
from dim_ray.core.training.precision import call
from dim_ray.core.training.random import stream

__all__ = [
    "AdversarialTraining",
    "discriminator_loss",
    "discriminator_steps",
    "generator_loss",
    "generator_step",
    "in_turn",
]

_WARM_UP = 10  # in the decay (1 + n) / (10 + n), the usual one of moving averages of weights


class AdversarialTraining(Stage):
    """Stage 1, which trains a freshly initialised pair in place."""

    name = "prior"

    def __init__(
        self, pair: Pair, config: PriorConfig, dataset: Dataset, health: HealthConfig, collective: Collective
    ) -> None:
        self.epochs, self.batch_size, self.seeds = config.epochs, config.batch_size, [config.seed]
        self.patience = health.patience
        self._pair = pair
        self._config = config
        self._dataset = dataset
        self._collective = collective
        self._check = HealthCheck(health, config, dataset)
        pair.generator.train()
        pair.discriminator.train()
        share_batch_norm(pair.generator, collective)

    def step(self, number: int, indices: Tensor) -> Losses:
        """Take the discriminator's steps down L_D, and one of the generator down L_G."""
        pair, config, train = self._pair, self._config, self._dataset.train
        rng = stream(config.seed, "adversarial", self._collective.rank, step=number, device=indices.device)
        real, real_labels = signed(train.images[indices]), train.labels[indices]

        def judge() -> Tensor:
            return discriminator_steps(pair, config, real, real_labels, rng, self._collective, step=number)

        def generate() -> Losses:
            labels = _labels_for("generator", pair, config, real_labels, rng)
            loss, _ = generator_loss(pair, config, labels, rng, (real, real_labels))
            generator_step(pair, loss, self._collective, number=number)
            return {"generator_loss": loss.detach()}

        return in_turn(config, judge, generate)

    def state(self) -> Mapping[str, Tensor]:
        return self._pair.state()

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        self._pair.load_state(tensors)

    def check(self) -> tuple[Mapping[str, float], str]:
        return self._check(self._pair)


def in_turn(config: PriorConfig, judge: Callable[[], Tensor], generate: Callable[[], Losses]) -> Losses:
    """Take the steps of the discriminator and that of the generator in the configured order; return all losses."""
    if config.first == "discriminator":
        return {"discriminator_loss": judge(), **generate()}
    losses = generate()
    return {"discriminator_loss": judge(), **losses}


def discriminator_loss(
    pair: Pair, config: PriorConfig, real: Tensor, real_labels: Tensor, rng: torch.Generator, *, number: int = 0
) -> Tensor:
    """Return L_D of real images and of images generated for the same labels, or for uniform ones.

    `real` is (B, C, H, W) in [-1, 1]. The discriminator's step since training began decides whether the penalty is due
    (lazy regularisation, Karras et al., arXiv 1912.04958, appendix B).
    """
    batch = len(real)
    labels = _labels_for("discriminator", pair, config, real_labels, rng)
    with torch.no_grad():
        fake = _generate(pair.generator, config, labels, rng)
    # The discriminator judges each image by itself, so both halves can share a pass.
    images = augment(torch.cat([real, fake]), config.augmentation, rng)
    scores, classes = _judge(pair.discriminator, config, images, torch.cat([real_labels, labels]))
    loss = adversarial_loss(config, scores[:batch], scores[batch:])
    if config.penalty_weight > 0 and number % config.gradient_penalty_every == 0:
        weight = config.penalty_weight * config.gradient_penalty_every
        if config.loss == "relativistic":
            both = torch.cat([real_labels, labels])
            loss = loss + weight * zero_centred_penalty(pair.discriminator, images, both, config.precision)
        else:
            real, fake = images.split(batch)
            loss = loss + weight * gradient_penalty(pair.discriminator, real, fake, real_labels, rng, config.precision)
    loss = loss + config.class_weight * F.cross_entropy(classes[:batch], real_labels)
    if config.class_loss_on == "both":
        loss = loss + config.class_weight * F.cross_entropy(classes[batch:], labels)
    return loss


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
    """Take the discriminator's steps of training step `step` down L_D, and return the last L_D, a detached scalar."""
    for index in range(config.discriminator_steps):
        number = step * config.discriminator_steps + index
        pair.discriminator.follow_spectrum()
        loss = discriminator_loss(pair, config, real, real_labels, rng, number=number)
        pair.discriminator_optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        collective.average_gradients(pair.discriminator.parameters())
        pair.discriminator_optimizer.step()
    return loss.detach()


def generator_loss(
    pair: Pair, config: PriorConfig, labels: Tensor, rng: torch.Generator, real: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return L_G of freshly generated images of `labels` (B,), and these images (B, C, H, W) in [-1, 1].

    `real` are images (B, C, H, W) in [-1, 1] and their labels (B,), with which only the relativistic loss compares.
    """
    images = _generate(pair.generator, config, labels, rng)
    scores, classes = _judge(pair.discriminator, config, augment(images, config.augmentation, rng), labels)
    if config.loss == "relativistic":
        with torch.no_grad():
            real_scores, _ = _judge(pair.discriminator, config, augment(real[0], config.augmentation, rng), real[1])
        source = adversarial_loss(config, scores, real_scores)  # the discriminator's, with the roles exchanged
    else:
        source = -scores.mean()
    return source + config.class_weight * F.cross_entropy(classes, labels), images


def generator_step(pair: Pair, loss: Tensor, collective: Collective, *, number: int | None = None) -> None:
    """Take one step of the generator down `loss`, a scalar, and one of its moving average.

    In step `number` since its weights were random, which the average must forget, it decays by at most
    (1 + n) / (10 + n). None stands for an average that is worth keeping from the start.
    """
    pair.generator_optimizer.zero_grad(set_to_none=True)
    # Gradients of the generator only: none of the discriminator and of matched teachers are computed.
    torch.autograd.backward(loss, inputs=list(pair.generator.parameters()))
    collective.average_gradients(pair.generator.parameters())
    pair.generator_optimizer.step()
    if pair.average is not pair.generator:
        decay = pair.ema_decay if number is None else min(pair.ema_decay, (1 + number) / (_WARM_UP + number))
        _follow(pair.average, pair.generator, decay)


@torch.no_grad()
def _follow(average: Generator, generator: Generator, decay: float) -> None:
    """Take a step of the moving average, of weights and the statistics that belong to them; counters are the latest."""
    averages, latest = ([*network.parameters(), *network.buffers()] for network in (average, generator))
    moving = [index for index, tensor in enumerate(latest) if tensor.is_floating_point()]
    torch._foreach_lerp_([averages[index] for index in moving], [latest[index] for index in moving], 1 - decay)
    counting = [index for index, tensor in enumerate(latest) if not tensor.is_floating_point()]
    torch._foreach_copy_([averages[index] for index in counting], [latest[index] for index in counting])


def _labels_for(network: str, pair: Pair, config: PriorConfig, real_labels: Tensor, rng: torch.Generator) -> Tensor:
    """Return labels (B,) of the images to generate for a network's own step."""
    if config.uniform_labels != network:
        return real_labels
    return torch.randint(pair.generator.num_classes, real_labels.shape, generator=rng, device=real_labels.device)


def _generate(generator: Generator, config: PriorConfig, labels: Tensor, rng: torch.Generator) -> Tensor:
    images: Tensor = call(generator, config.precision, generator.noise(len(labels), rng), labels)
    return images.float()


def _judge(discriminator: Discriminator, config: PriorConfig, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    scores, classes = call(discriminator, config.precision, images, labels)
    return scores.float(), classes.float()
