"""Latents of a fixed set, moved until teachers see its images as they see real ones.

    match = LatentMatching(pool, dataset, augmentation="color+crop", steps=300)
    latents = match(generator, noise, labels, seed=0)

The generator stays as it is: only the few latents are optimised (IT-GAN, arXiv 2204.07513), so that the class means of
all of a teacher's activations are those of real images (`feature_distance`).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dim_ray.config import MatchingConfig, Precision
from dim_ray.core.data.augment import draw_augmentation
from dim_ray.core.data.dataset import Dataset
from dim_ray.core.generator.matching import matching_loss
from dim_ray.core.generator.networks import Generator
from dim_ray.core.teachers.pool import TeacherPool
from dim_ray.core.training.precision import autocast
from dim_ray.core.training.random import stream

__all__ = ["LatentMatching"]

_LEARNING_RATE = 0.1  # of Adam, at the start of a cosine


class LatentMatching:
    """Matches latents to real images.

    Args:
        pool: Teachers, of which each step draws one.
        dataset: Real images, with the teachers' normalisation.
        augmentation: DSA operations, in each step the same for real and generated images.
        steps: Steps of Adam.
        precision: Of the passes through generator and teachers.
    """

    def __init__(
        self, pool: TeacherPool, dataset: Dataset, *, augmentation: str, steps: int, precision: Precision
    ) -> None:
        self._pool = pool
        self._dataset = dataset
        self._config = MatchingConfig(kind="features", augmentation=augmentation)
        self._steps = steps
        self._precision = precision

    def __call__(self, generator: Generator, noise: Tensor, labels: Tensor, seed: int) -> Tensor:
        """Return the latents (N, latent_dim) that `noise` becomes, for the labels (N,) in ascending order.

        Each step sees as many real images of each class as the set has.
        """
        dataset, device = self._dataset, labels.device
        members = [(dataset.train.labels == label).nonzero().squeeze(1) for label in labels.unique()]
        count = len(labels) // len(members)
        latents = noise.clone().requires_grad_()
        optimizer = torch.optim.Adam([latents], lr=_LEARNING_RATE, betas=(0.5, 0.99))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self._steps)
        generator.eval()
        for step in range(self._steps):
            rng = stream(seed, "latents", step=step, device=device)
            teachers = self._pool.draw(step, 1, stream(seed, "teachers", step=step))
            augment = draw_augmentation(
                self._config.augmentation,
                batch_size=len(labels),
                image_size=dataset.image_size,
                rng=rng,
                shared=True,
            )
            drawn = [torch.randint(len(own), (count,), generator=rng, device=device) for own in members]
            real = dataset.train.images[torch.cat([own[i] for own, i in zip(members, drawn, strict=True)])]
            with autocast(self._precision, device):
                fake = generator(latents, labels).float()
            drawn_teachers = [(replace(f, precision=self._precision), augment) for f in teachers]
            loss = matching_loss(drawn_teachers, self._config, dataset, real, fake, labels)
            (latents.grad,) = torch.autograd.grad(loss, [latents])
            optimizer.step()
            schedule.step()
        return latents.detach()
