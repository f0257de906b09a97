"""Soft labels: a pool's predictions for an image, in place of its class.

    labeller = Labeller(teachers, dataset, temperature=1.0)
    probabilities = labeller(images)      # (N, K) float32
    loss = label_loss(student(augmented), probabilities, temperature=1.0)

The label of image x is the mean of softmax(f(x) / T) over the teachers f, each in its last snapshot and in eval mode.
It belongs to the image before augmentation: a set's labels are computed once and can be stored with it, N x K float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dim_ray.config import NormalisationKind
from dim_ray.core.data.dataset import Dataset
from dim_ray.core.networks.classifiers import build_network
from dim_ray.core.teachers.teacher import Teacher
from dim_ray.core.training.checkpoint import restore_module

__all__ = ["Labeller"]

_LABELLING_BATCH = 500  # images at a time; only memory depends on it


class Labeller:
    """Teachers in their last snapshots, on the device of a dataset whose images are not used.

    `given` is the normalisation of the images to label.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        dataset: Dataset,
        temperature: float,
        given: NormalisationKind = "measured",
    ) -> None:
        self._temperature = temperature
        self._given = dataset.normalised(given).normalisation
        self._networks = []
        for teacher in teachers:
            network = build_network(teacher.architecture, dataset, torch.Generator(dataset.device))
            restore_module(network, teacher.snapshots[-1])
            seen = dataset.normalised(teacher.normalisation).normalisation
            self._networks.append((network.eval().requires_grad_(False), seen))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the labels (N, K), whose rows sum to 1, of normalised images (N, C, H, W)."""
        return torch.cat([self._label(part) for part in torch.split(images, _LABELLING_BATCH)])

    def _label(self, images: Tensor) -> Tensor:
        logits = [network(seen.from_other(images, self._given)) for network, seen in self._networks]
        predictions = [torch.softmax(own / self._temperature, dim=1) for own in logits]
        return torch.stack(predictions).mean(dim=0)
