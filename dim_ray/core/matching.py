"""Stage 2: distillation. The generator goes on from its prior and learns to look real to the teacher pool.

To the generator's adversarial loss it adds the distance between the logits that a teacher f, drawn from the pool,
gives real images and images generated for the same labels (DiM, arXiv 2303.04707; w_match = 0.01 in its code):

    w_match * mean( (log_softmax f(A(x)) - log_softmax f(A(G(z, y))))^2 )

A is differentiable siamese augmentation with the same parameters for both halves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from dim_ray.config import HealthConfig, MatchingConfig, PriorConfig
from dim_ray.core.adversarial import discriminator_steps, generator_losses, generator_step
from dim_ray.core.augment import draw_augmentation
from dim_ray.core.data import Dataset, signed
from dim_ray.core.health import HealthCheck
from dim_ray.core.loop import Losses, run_epochs
from dim_ray.core.pair import Pair, average_statistics
from dim_ray.core.pool import TeacherPool
from dim_ray.core.ports import Checkpointer, Collective, Reporter
from dim_ray.core.random import stream

__all__ = ["distill", "logit_distance"]


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
        pool: This worker's shard of the teachers; None where nothing is matched.
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

    def step(number: int, indices: Tensor) -> Losses:
        pair.generator.train()
        rng = stream(config.seed, "matching", collective.rank, step=number, device=device)
        choices = stream(config.seed, "pool", collective.rank, step=number)
        images, labels = dataset.train.images[indices], dataset.train.labels[indices]
        discriminator_loss = discriminator_steps(
            pair, prior_config, signed(images), labels, rng, collective, step=number
        )
        adversarial, fake = generator_losses(pair, prior_config, labels, rng)
        loss = config.adversarial_weight * adversarial
        losses = {"discriminator_loss": discriminator_loss, "generator_loss": adversarial.detach()}
        if pool is not None:
            real, generated = dataset.normalisation.from_bytes(images), dataset.normalisation.from_signed(fake)
            augmentation = draw_augmentation(
                config.augmentation,
                batch_size=len(indices),
                image_size=dataset.image_size,
                rng=choices,
                shared=True,
            )
            distance = logit_distance(pool.draw(choices), augmentation(real), augmentation(generated))
            loss = loss + config.weight * shard_weight * distance
            losses["matching_loss"] = distance.detach()
        generator_step(pair, loss, collective)
        return losses

    run_epochs(
        stage="matching",
        epochs=config.epochs,
        num_images=len(dataset.train),
        batch_size=config.batch_size,
        seed=config.seed,
        device=device,
        step=step,
        capture=pair.state,
        restore=pair.load_state,
        after_epoch=after_epoch,
        reporter=reporter,
        checkpointer=checkpointer,
        collective=collective,
        synchronise=lambda: average_statistics(pair, collective),
        check=lambda: check(pair),
        patience=health.patience,
    )


def logit_distance(teacher: Callable[[Tensor], Tensor], real: Tensor, generated: Tensor) -> Tensor:
    """Returns the mean squared difference of the log-softmax of a teacher's logits.

    Args:
        teacher: Normalised images to logits (B, K).
        real: (B, C, H, W), normalised and augmented.
        generated: The same, of the same labels in the same order; the gradient goes through these alone.
    """
    with torch.no_grad():
        target = F.log_softmax(teacher(real), dim=1)
    return F.mse_loss(F.log_softmax(teacher(generated), dim=1), target)
