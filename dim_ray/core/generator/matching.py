"""Stage 2: distillation. The generator continues from its prior and learns to look real to the teacher pool.

To the generator's adversarial loss it adds a distance d between real images x and images generated for their labels, as
seen by a teacher f that is drawn from the pool (DiM, arXiv 2303.04707: d is that of paired logits, and its code has
w_match = 0.01):

    w_adv L_G + w_match mean d(f, A(x), A(G(z, y)))

A is differentiable siamese augmentation, with the same parameters for both halves. The mean is over the teachers that a
step draws, each with an augmentation of its own. The kinds of d are in `dim_ray.core.generator.distances`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dim_ray.config import HealthConfig, MatchingConfig, PriorConfig
from dim_ray.core.data.augment import Augmentation, draw_augmentation
from dim_ray.core.data.dataset import Dataset, signed
from dim_ray.core.generator.adversarial import discriminator_steps, generator_loss, generator_step, in_turn
from dim_ray.core.generator.distances import DISTANCES, ImagePairs
from dim_ray.core.generator.health import HealthCheck
from dim_ray.core.generator.pair import Pair
from dim_ray.core.networks.batch_norm import share_batch_norm
from dim_ray.core.teachers.pool import DrawnTeacher, TeacherPool
from dim_ray.core.training.checkpoint import with_prefix, without_prefix
from dim_ray.core.training.loop import Losses, Stage
from dim_ray.core.training.ports import Collective
from dim_ray.core.training.random import stream

__all__ = ["Distillation", "matching_loss"]

_POOL_STATE = "pool"


class Distillation(Stage):
    """Stage 2, which trains a pair in place.

    Args:
        pair: The prior.
        pool: This worker's teachers; None where nothing is matched, or its shard is empty.
        config: Weights of the loss, and the budget.
        prior_config: Weights within the adversarial losses, and discriminator steps for each generator step.
        dataset: Real images, with the teachers' normalisation.
        health: Limits beyond which the networks count as broken.
        collective: The workers.
        measure: Measures the generator; takes the number of epochs done.
    """

    name = "matching"

    def __init__(
        self,
        pair: Pair,
        pool: TeacherPool | None,
        config: MatchingConfig,
        prior_config: PriorConfig,
        dataset: Dataset,
        *,
        health: HealthConfig,
        collective: Collective,
        measure: Callable[[int], Mapping[str, float]],
    ) -> None:
        self.epochs, self.batch_size, self.seeds = config.epochs, config.batch_size, [config.seed]
        self.patience = health.patience
        self._pair = pair
        self._pool = pool
        self._config = config
        self._prior_config = prior_config
        self._dataset = dataset
        self._collective = collective
        self._measure = measure
        self._check = HealthCheck(health, prior_config, dataset)
        share_batch_norm(pair.generator, collective)

    def step(self, number: int, indices: Tensor) -> Losses:
        """Take the discriminator's steps down L_D, and one of the generator down w_adv L_G + w_match mean d."""
        pair, config, prior_config = self._pair, self._config, self._prior_config
        pair.generator.train()  # `measure` leaves it in eval mode
        rng = stream(config.seed, "matching", self._collective.rank, step=number, device=indices.device)
        images, labels = self._dataset.train.images[indices], self._dataset.train.labels[indices]

        def judge() -> Tensor:
            return discriminator_steps(pair, prior_config, signed(images), labels, rng, self._collective, step=number)

        def generate() -> Losses:
            adversarial, fake = generator_loss(pair, prior_config, labels, rng)
            loss = config.adversarial_weight * adversarial
            losses = {"generator_loss": adversarial.detach()}
            if self._pool is not None:
                drawn = self._draw(self._pool, number, len(indices))
                distance = matching_loss(drawn, config, self._dataset, images, fake, labels)
                loss = loss + config.weight * self._pool.weight * distance
                losses["matching_loss"] = distance.detach()
            generator_step(pair, loss, self._collective)
            return losses

        return in_turn(prior_config, judge, generate)

    def state(self) -> Mapping[str, Tensor]:
        pool = {} if self._pool is None else self._pool.state()
        return {**self._pair.state(), **with_prefix(_POOL_STATE, pool)}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        self._pair.load_state(tensors)
        if self._pool is not None:
            self._pool.load_state(without_prefix(_POOL_STATE, tensors))

    def is_shared(self) -> bool:
        return self._pool is None or not self._pool.state()

    def check(self) -> tuple[Mapping[str, float], str]:
        return self._check(self._pair)

    def after_epoch(self, epoch: int) -> Mapping[str, float]:
        return self._measure(epoch)

    def _draw(self, pool: TeacherPool, number: int, batch: int) -> list[tuple[DrawnTeacher, Augmentation]]:
        """Return the teachers f of a step, each with its A, and let the pool prepare those of the next step."""
        augmentations, rng = self._draw_augmentations(number, batch)
        teachers = pool.draw(number, len(augmentations), rng)
        pool.prefetch(len(augmentations), lambda: self._draw_augmentations(number + 1, batch)[1])
        precision = self._config.precision
        return [(replace(f, precision=precision), a) for f, a in zip(teachers, augmentations, strict=True)]

    def _draw_augmentations(self, number: int, batch: int) -> tuple[list[Augmentation], torch.Generator]:
        """Return the augmentations of a step, and the stream behind them, of which its teachers are drawn next."""
        rng = stream(self._config.seed, "pool", self._collective.rank, step=number)
        operations, size = self._config.augmentation, self._dataset.image_size
        augmentations = [
            draw_augmentation(operations, batch_size=batch, image_size=size, rng=rng, shared=True)
            for _ in range(self._config.teachers_per_step)
        ]
        return augmentations, rng


def matching_loss(
    drawn: Sequence[tuple[DrawnTeacher, Augmentation]],
    config: MatchingConfig,
    dataset: Dataset,
    images: Tensor,
    fake: Tensor,
    labels: Tensor,
) -> Tensor:
    """Return the mean of d(f, A(x), A(G(z, y))) over the drawn teachers f, each with its augmentation A.

    Args:
        drawn: Teachers and augmentations.
        config: Kind of d.
        dataset: Normalisation and number of classes.
        images: x, (B, C, H, W) uint8.
        fake: G(z, y), (B, C, H, W) in [-1, 1]; the gradient flows through these only.
        labels: y, (B,) int64.
    """
    d = DISTANCES[config.kind]
    real, generated = dataset.normalisation.from_bytes(images), dataset.normalisation.from_signed(fake)
    distances = []
    for teacher, augment in drawn:
        pairs = ImagePairs(
            real=augment(real), generated=augment(generated), labels=labels, num_classes=dataset.num_classes
        )
        distances.append(d(teacher, pairs, config))
    return torch.stack(distances).mean()
