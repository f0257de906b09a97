"""Whether adversarial training still works, checked after every epoch.

    check = HealthCheck(config.health, config.prior, dataset)
    metrics, complaint = check(pair)          # {"diversity": 0.81, "source_gap": 0.12}, ""

A GAN's training can end while every loss is finite: the generator collapses to one image per class, whatever the noise,
or the discriminator has nothing left to learn (hinge, relativistic) or leaves the slopes that its penalty allows
(Wasserstein).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dim_ray.config import HealthConfig, PriorConfig
from dim_ray.core.data.dataset import Dataset, signed
from dim_ray.core.generator.adversarial_losses import adversarial_loss
from dim_ray.core.generator.pair import Pair
from dim_ray.core.training.random import stream

__all__ = ["HealthCheck"]

_IMAGES_PER_CLASS = 16
_LARGEST_DIFFERENCE = 2.0  # between two pixels in [-1, 1]


class HealthCheck:
    """Compares generated images with the first real training images of every class."""

    def __init__(self, config: HealthConfig, prior_config: PriorConfig, dataset: Dataset) -> None:
        self._config = config
        self._prior_config = prior_config
        members = [(dataset.train.labels == k).nonzero().squeeze(1) for k in range(dataset.num_classes)]
        chosen = torch.cat([indices[:_IMAGES_PER_CLASS] for indices in members])
        self._labels = dataset.train.labels[chosen]
        self._counts = self._labels.bincount(minlength=dataset.num_classes).tolist()
        self._real = signed(dataset.train.images[chosen])
        self._real_spread = self._spread(self._real)
        self._diameter = _LARGEST_DIFFERENCE * math.sqrt(self._real[0].numel())

    @torch.no_grad()
    def __call__(self, pair: Pair) -> tuple[dict[str, float], str]:
        """Return measurements, and what is wrong: an empty string where nothing is.

        `diversity` is the spread of a class's generated images over that of its real ones, median over classes; a
        spread is the mean over pixels of the standard deviation over images. `source_loss` is the hinge or relativistic
        loss of the adversarial scores. `source_gap`, with the Wasserstein loss, is by how much real images are scored
        above generated ones, in largest possible distances between two images.
        """
        networks: tuple[nn.Module, ...] = (pair.generator, pair.discriminator)
        were_training = [network.training for network in networks]
        for network in networks:
            network.eval()
        rng = stream(self._prior_config.seed, "health", device=self._labels.device)
        fake = pair.generator.sample(self._labels, rng)
        real_scores, fake_scores = (pair.discriminator(images, self._labels)[0] for images in (self._real, fake))
        for network, was_training in zip(networks, were_training, strict=True):
            network.train(was_training)
        shares = self._spread(fake) / self._real_spread
        diversity = float(shares[self._real_spread > 0].nan_to_num().median())
        loss = float(adversarial_loss(self._prior_config, real_scores, fake_scores))
        complaint = ""
        if diversity < self._config.min_diversity:
            complaint = (
                f"the generator collapsed to one image per class: the spread of its images is {diversity:.3g} of that "
                f"of real ones (health.min_diversity is {self._config.min_diversity:g})"
            )
        if (kind := self._prior_config.loss) != "wasserstein":
            if loss < self._config.min_source_loss:
                complaint = complaint or (
                    f"the discriminator is saturated and has nothing left to learn: its {kind} loss is {loss:.3g} "
                    f"(health.min_source_loss is {self._config.min_source_loss:g})"
                )
            return {"diversity": diversity, "source_loss": loss}, complaint
        gap = -loss / self._diameter
        if abs(gap) > self._config.max_source_gap:
            complaint = complaint or (
                f"the discriminator's scores exploded: real images are {gap:.3g} largest distances above generated "
                f"ones (health.max_source_gap is {self._config.max_source_gap:g})"
            )
        return {"diversity": diversity, "source_gap": gap}, complaint

    def _spread(self, images: Tensor) -> Tensor:
        """Return the spread of each class's images, (K,)."""
        parts = images.flatten(1).split(self._counts)
        return torch.stack([part.std(dim=0, correction=0).mean() for part in parts])
