"""Stage 2: distillation. The generator goes on from its prior and learns to look real to the teacher pool.

To the generator's adversarial loss it adds a distance d between real images x and images generated for their labels, as
a teacher f sees them that is drawn from the pool (DiM, arXiv 2303.04707: d is that of paired logits, and its code has
w_match = 0.01):

    w_adv L_G + w_match d(f, A(x), A(G(z, y)))

A is differentiable siamese augmentation with the same parameters for both halves. Where a step draws several teachers,
each has an augmentation of its own, and the loss is the mean. The kinds of d are in `dim_ray.core.generator.distances`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from dim_ray.config import HealthConfig, MatchingConfig, PriorConfig
from dim_ray.core.data.augment import Augmentation, draw_augmentation
from dim_ray.core.data.dataset import Dataset, signed
from dim_ray.core.generator.adversarial import discriminator_steps, generator_losses, generator_step
from dim_ray.core.generator.distances import DISTANCES, ImagePairs
from dim_ray.core.generator.health import HealthCheck
from dim_ray.core.generator.pair import Pair
from dim_ray.core.networks.batch_norm import share_batch_norm
from dim_ray.core.teachers.pool import TeacherPool
from dim_ray.core.training.checkpoint import with_prefix, without_prefix
from dim_ray.core.training.loop import Losses, run_epochs
from dim_ray.core.training.ports import Checkpointer, Collective, Reporter
from dim_ray.core.training.random import stream

__all__ = ["distill", "matching_loss"]

_POOL_STATE = "pool"


def distill(
    pair: Pair,
    pool: TeacherPool | None,
    config: MatchingConfig,
    prior_config: PriorConfig,
    dataset: Dataset,
    *,
    shard_weight: float,
    health: HealthConfig,
    after_epoch: Callable[[int], Mapping[str, float]],
    reporter: Reporter,
    checkpointer: Checkpointer,
    collective: Collective,
) -> None:
    """Trains a pair in place for `config.epochs`.

    Args:
        pair: The prior.
        pool: Where this worker draws its teachers from; None where nothing is matched, or its shard is empty.
        config: Weights and budget.
        prior_config: Weights inside of the adversarial losses, and discriminator steps for each generator step.
        dataset: Real images.
        shard_weight: Teachers of this shard / mean over the shards, so that every teacher counts the same.
        health: When the networks count as broken.
        after_epoch: Measures the generator; takes the number of epochs done.
        reporter: Is told about every epoch.
        checkpointer: Keeps the state.
        collective: The workers.

    Raises:
        DivergedError: A loss was not finite, or the networks are no longer healthy.
    """
    device = dataset.train.images.device
    check = HealthCheck(health, prior_config, dataset)
    share_batch_norm(pair.generator, collective)

    def choices(number: int) -> torch.Generator:
        return stream(config.seed, "pool", collective.rank, step=number)

    def step(number: int, indices: Tensor) -> Losses:
        pair.generator.train()
        rng = stream(config.seed, "matching", collective.rank, step=number, device=device)
        images, labels = dataset.train.images[indices], dataset.train.labels[indices]
        discriminator_loss = discriminator_steps(
            pair, prior_config, signed(images), labels, rng, collective, step=number
        )
        adversarial, fake = generator_losses(pair, prior_config, labels, rng)
        loss = config.adversarial_weight * adversarial
        losses = {"discriminator_loss": discriminator_loss, "generator_loss": adversarial.detach()}
        if pool is not None:
            distance = matching_loss(pool, config, dataset, images, fake, labels, step=number, choices=choices)
            loss = loss + config.weight * shard_weight * distance
            losses["matching_loss"] = distance.detach()
        generator_step(pair, loss, collective)
        return losses

    def capture() -> Mapping[str, Tensor]:
        return {**pair.state(), **with_prefix(_POOL_STATE, pool.state() if pool is not None else {})}

    def restore(tensors: Mapping[str, Tensor]) -> None:
        pair.load_state(tensors)
        if pool is not None:
            pool.load_state(without_prefix(_POOL_STATE, tensors))

    run_epochs(
        stage="matching",
        epochs=config.epochs,
        num_images=len(dataset.train),
        batch_size=config.batch_size,
        seeds=[config.seed],
        device=device,
        step=step,
        capture=capture,
        restore=restore,
        after_epoch=after_epoch,
        reporter=reporter,
        checkpointer=checkpointer,
        collective=collective,
        is_shared=lambda: pool is None or not pool.state(),
        check=lambda: check(pair),
        patience=health.patience,
    )


def matching_loss(
    pool: TeacherPool,
    config: MatchingConfig,
    dataset: Dataset,
    images: Tensor,
    fake: Tensor,
    labels: Tensor,
    *,
    step: int,
    choices: Callable[[int], torch.Generator],
) -> Tensor:
    """Returns the mean of d over the teachers of a step, each with an augmentation of its own.

    Args:
        pool: The teachers.
        config: Kind of d, number of teachers, augmentation.
        dataset: Normalisation, size and number of classes.
        images: (B, C, H, W) uint8, real.
        fake: (B, C, H, W) in [-1, 1], generated for the same labels; the gradient goes through these alone.
        labels: (B,) int64.
        step: Number of the step.
        choices: Takes a step's number to a stream on the CPU, of which augmentations are drawn first and then teachers.
    """
    real, generated = dataset.normalisation.from_bytes(images), dataset.normalisation.from_signed(fake)

    def draw_changes(number: int) -> tuple[list[Augmentation], torch.Generator]:
        rng, size = choices(number), dataset.image_size
        changes = [
            draw_augmentation(config.augmentation, batch_size=len(images), image_size=size, rng=rng, shared=True)
            for _ in range(config.teachers_per_step)
        ]
        return changes, rng

    changes, rng = draw_changes(step)
    teachers = pool.draw(step, len(changes), rng)
    pool.prefetch(len(changes), lambda: draw_changes(step + 1)[1])
    distance = DISTANCES[config.kind]
    found = []
    for teacher, change in zip(teachers, changes, strict=True):
        pairs = ImagePairs(
            real=change(real), generated=change(generated), labels=labels, num_classes=dataset.num_classes
        )
        found.append(distance(replace(teacher, precision=config.precision), pairs, config))
    return torch.stack(found).mean()
