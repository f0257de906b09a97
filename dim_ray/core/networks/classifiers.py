"""Classifiers for a data set: construction, loss, accuracy and cost.

network = build_network("convnet3", dataset, rng)
share = accuracy(network.eval(), dataset.validation, dataset.normalisation)
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dim_ray.core.data.dataset import Dataset, Normalisation, Split
from dim_ray.core.networks import build_classifier

__all__ = ["Classifier", "accuracies", "build_network", "forward_macs", "label_loss"]

Classifier = Callable[[Tensor], Tensor]
"""From normalised images (B, C, H, W) to logits (B, K)."""

_TEST_BATCH = 1000  # images at a time; changes only speed


def build_network(architecture: str, dataset: Dataset, rng: torch.Generator) -> nn.Module:
    """Return a freshly initialised classifier for a data set, on the device of `rng`."""
    return build_classifier(
        architecture,
        num_channels=dataset.num_channels,
        num_classes=dataset.num_classes,
        image_size=dataset.image_size,
        rng=rng,
    )


def forward_macs(architecture: str, dataset: Dataset) -> int:
    """Return the multiply-accumulates of one image's pass through convolutions and linear layers."""
    return _forward_macs(architecture, dataset.num_channels, dataset.image_size, dataset.num_classes)


def label_loss(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return the student's loss, a mean over the batch.

    Hard labels: cross-entropy. Soft labels p: T^2 KL(p || softmax(logits / T)), whose gradients have the same scale at
    every T (Hinton, Vinyals and Dean, arXiv 1503.02531, section 2).

    Args:
        logits: (B, K) float32.
        labels: (B,) int64, or (B, K) float32 probabilities.
        temperature: T, for soft labels.
    """
    if not labels.is_floating_point():
        return F.cross_entropy(logits, labels)
    # F.kl_div computes the same, but torch.vmap has no rule for it.
    divergence = torch.xlogy(labels, labels) - labels * F.log_softmax(logits / temperature, dim=1)
    return divergence.sum() / len(labels) * temperature**2


@torch.no_grad()
def accuracies(
    classifiers: Classifier, split: Split, normalisation: Normalisation, *, num_batches: int | None = None
) -> list[float]:
    """Return the accuracy in [0, 1] of each of S classifiers, which give logits (S, B, K) together.

    The number of batches only matters where they aren't in eval mode.
    """
    correct = torch.zeros((), dtype=torch.int64, device=split.labels.device)
    parts = (
        torch.tensor_split(whole, num_batches) if num_batches else torch.split(whole, _TEST_BATCH)
        for whole in (split.images, split.labels)
    )
    for images, labels in zip(*parts, strict=True):
        correct = correct + (classifiers(normalisation.from_bytes(images)).argmax(dim=2) == labels).sum(dim=1)
    return [count / len(split) for count in correct.tolist()]


@functools.cache
def _forward_macs(architecture: str, num_channels: int, image_size: int, num_classes: int) -> int:
    network = build_classifier(
        architecture, num_channels=num_channels, num_classes=num_classes, image_size=image_size, rng=torch.Generator()
    )
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(module.weight, Tensor)
        total += output.numel() * module.weight[0].numel()

    # PyTorch's own counter imports its compiler, which takes seconds.
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        network.eval()(torch.zeros(1, num_channels, image_size, image_size))
    return total
