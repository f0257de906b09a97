"""Latents of a fixed set, moved until teachers see its images as they see real ones.

    match = LatentMatching(pool, dataset, augmentation="color+crop", steps=300)
    latents = match(generator, noise, labels, seed=0)

The generator stays as it is: only the few latents are optimised (IT-GAN, arXiv 2204.07513), so that the class means of
all of a teacher's activations are those of real images (`feature_distance`).
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace

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


@dataclass(frozen=True)
class LatentMatching:
    """Matches latents to the real images of a dataset that has the teachers' normalisation, in steps of Adam.

    Each step draws one teacher, and one augmentation for real and generated images.
    """

    pool: TeacherPool
    dataset: Dataset
    _: KW_ONLY
    augmentation: str
    steps: int
    precision: Precision

    def __call__(self, generator: Generator, noise: Tensor, labels: Tensor, seed: int) -> Tensor:
        """Return the latents (N, latent_dim) that `noise` becomes, for the labels (N,) in ascending order.

        Each step sees as many real images of each class as the set has.
        """
        dataset, device = self.dataset, labels.device
        config = MatchingConfig(kind="features", augmentation=self.augmentation)
        members = [(dataset.train.labels == label).nonzero().squeeze(1) for label in labels.unique()]
        count = len(labels) // len(members)
        latents = noise.clone().requires_grad_()
        optimizer = torch.optim.Adam([latents], lr=_LEARNING_RATE, betas=(0.5, 0.99))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        generator.eval()
        for step in range(self.steps):
            rng = stream(seed, "latents", step=step, device=device)
            teachers = self.pool.draw(step, 1, stream(seed, "teachers", step=step))
            augment = draw_augmentation(self.augmentation, rng)
            drawn = [torch.randint(len(own), (count,), generator=rng, device=device) for own in members]
            real = dataset.train.images[torch.cat([own[i] for own, i in zip(members, drawn, strict=True)])]
            with autocast(self.precision, device):
                fake = generator(latents, labels).float()
            drawn_teachers = [(replace(f, precision=self.precision), augment) for f in teachers]
            loss = matching_loss(drawn_teachers, config, dataset, real, fake, labels)
            (latents.grad,) = torch.autograd.grad(loss, [latents])
            optimizer.step()
            schedule.step()
        return latents.detach()
