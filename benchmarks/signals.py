"""Measurements of generated images that need no student, and how well they order generators.

    signals = Signals(teacher, dataset)
    signals(generator)       # {"teacher accuracy": 0.91, "probe accuracy": 0.87, ...}; more is better

All look through one teacher: at its logits, or at the features that its last layer takes. Images are as many as
`NUM_IMAGES` of each kind, generated ones with the same noise each time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor, nn

from dim_ray.core.data.dataset import Dataset
from dim_ray.core.generator.networks import Generator
from dim_ray.core.networks.classifiers import build_network
from dim_ray.core.teachers.teacher import Teacher
from dim_ray.core.training.checkpoint import restore_module
from dim_ray.core.training.random import stream

__all__ = ["NAMES", "NUM_IMAGES", "Signals", "neighbours", "probe_accuracy", "rank_correlations"]

NUM_IMAGES = 500
NAMES = ("teacher accuracy", "probe accuracy", "precision", "recall", "density", "coverage")
_NEIGHBOURS = 5
_RIDGE = 1e-2  # of the mean variance of a feature


class Signals:
    """The measurements of a data set, in the features of a teacher's last snapshot."""

    def __init__(self, teacher: Teacher, dataset: Dataset) -> None:
        self._dataset = dataset
        self._network = build_network(teacher.architecture, dataset, stream(0))
        restore_module(self._network, teacher.snapshots[-1])
        self._network.eval()
        self._last = [layer for layer in self._network.modules() if isinstance(layer, nn.Linear)][-1]
        train = dataset.train
        self._real = self._features(dataset.normalisation.from_bytes(train.images[:NUM_IMAGES]))[0]
        self._real_labels = train.labels[:NUM_IMAGES]

    @torch.no_grad()
    def __call__(self, generator: Generator) -> dict[str, float]:
        """Return the measurements of a generator in eval mode, by their names."""
        labels = torch.arange(NUM_IMAGES) % self._dataset.num_classes
        images = self._dataset.normalisation.from_signed(generator.sample(labels, stream(0, "signals")))
        features, logits = self._features(images)
        return {
            "teacher accuracy": float((logits.argmax(dim=1) == labels).float().mean()),
            "probe accuracy": probe_accuracy(features, labels, self._real, self._real_labels),
            **neighbours(self._real, features),
        }

    @torch.no_grad()
    def _features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        caught: list[Tensor] = []
        hook = self._last.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
        logits = self._network(images)
        hook.remove()
        return caught[0].flatten(1), logits


def probe_accuracy(features: Tensor, labels: Tensor, real: Tensor, real_labels: Tensor) -> float:
    """Return the accuracy on real features of ridge regression that was fitted to generated ones (N, F)."""
    targets = F.one_hot(labels).to(features.dtype)
    mean = features.mean(dim=0)
    centred = features - mean
    gram = centred.T @ centred
    gram += _RIDGE * gram.diagonal().mean() * torch.eye(len(gram))
    weights = torch.linalg.solve(gram, centred.T @ (targets - targets.mean(dim=0)))
    scores = (real - mean) @ weights + targets.mean(dim=0)
    return float((scores.argmax(dim=1) == real_labels).float().mean())


def neighbours(real: Tensor, generated: Tensor) -> dict[str, float]:
    """Return precision and recall (arXiv 1904.06991), density and coverage (arXiv 2002.09797) of features (N, F)."""
    real_radii, generated_radii = (_radii(features) for features in (real, generated))
    between = torch.cdist(real, generated)
    is_in_real = between < real_radii[:, None]
    return {
        "precision": float(is_in_real.any(dim=0).float().mean()),
        "recall": float((between < generated_radii).any(dim=1).float().mean()),
        "density": float(is_in_real.sum(dim=0).float().mean()) / _NEIGHBOURS,
        "coverage": float((between.min(dim=1).values < real_radii).float().mean()),
    }


def rank_correlations(
    rows: pd.DataFrame, names: Sequence[str] = NAMES, *, within: str | None = None
) -> Mapping[str, float]:
    """Return Spearman's rank correlation of each measurement with the students' mean accuracy, over generators.

    Rows are those of `benchmarks.curves`; the last epoch of each generator counts. With the name of a column, as
    `within`, all are differences from the mean of the generators with the same value there.
    """
    ends = rows[rows["epoch"] == rows["epoch"].max()].groupby("generator")
    last = ends[["accuracy", *names]].mean()
    if within is not None:
        last -= last.groupby(ends[within].first()).transform("mean")
    return {name: float(spearmanr(last[name], last["accuracy"]).statistic) for name in names}


def _radii(features: Tensor) -> Tensor:
    """Return each feature's distance to its k-th nearest other one."""
    return torch.cdist(features, features).kthvalue(_NEIGHBOURS + 1, dim=1).values
