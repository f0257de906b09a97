"""Published accuracies, with their sources.

lines = published("cifar10", "fixed")
lines[0].method, lines[0].accuracies, lines[0].source

They were not measured here and are never mixed with rows: code and budgets differ, and most of the methods of `fixed`
report the best of several tests on the test split. DiM's own are `on_the_fly`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["WHOLE_SETS", "Published", "published"]

_OWN = "its own paper"
_NCFM = "NCFM's paper"
_OTHER = "another paper's comparison"


@dataclass(frozen=True, kw_only=True)
class Published:
    """A method's accuracies on one dataset, as a paper prints them."""

    method: str
    dataset: str
    protocol: str
    accuracies: Mapping[int, float]
    """Test accuracy in [0, 1] by images per class."""
    source: str
    """Where the figures are printed."""
    architecture: str = "ConvNet-3"


def published(dataset: str, protocol: str) -> list[Published]:
    """Return the published accuracies on a dataset under a protocol."""
    return [line for line in _LINES if line.dataset == dataset and line.protocol == protocol]


def _fixed(method: str, dataset: str, one: float, ten: float, fifty: float, source: str) -> Published:
    accuracies = {1: one / 100, 10: ten / 100, 50: fifty / 100}
    return Published(method=method, dataset=dataset, protocol="fixed", accuracies=accuracies, source=source)


def _dim(architecture: str, ten: float) -> Published:
    return Published(
        method=f"DiM, {architecture}",
        dataset="cifar10",
        protocol="on_the_fly",
        accuracies={10: ten / 100},
        source=_OWN,
        architecture=architecture,
    )


_LINES = (
    _dim("ConvNet-3", 72.6),
    _dim("ResNet-18", 75.1),
    _fixed("DC", "cifar10", 28.3, 44.9, 53.9, _OWN),
    _fixed("DSA", "cifar10", 28.8, 52.1, 60.6, _OWN),
    _fixed("DM", "cifar10", 26.0, 48.9, 63.0, _NCFM),
    _fixed("MTT", "cifar10", 46.3, 65.3, 71.6, _NCFM),
    _fixed("FRePo", "cifar10", 46.8, 65.5, 71.7, _NCFM),
    _fixed("IDC", "cifar10", 50.6, 67.5, 74.5, _OWN),
    _fixed("DATM", "cifar10", 46.9, 66.8, 76.1, _OTHER),
    _fixed("RDED", "cifar10", 23.5, 50.2, 68.4, _OTHER),
    _fixed("NCFM", "cifar10", 49.5, 71.8, 77.4, _OWN),
    _fixed("AutoPalette", "cifar10", 58.6, 74.3, 79.4, _OWN),
    _fixed("GSDD", "cifar10", 67.6, 75.5, 77.7, _OWN),
    _fixed("DC", "svhn", 31.2, 76.1, 82.3, _OWN),
    _fixed("DSA", "svhn", 27.5, 79.2, 84.4, _OWN),
    _fixed("IDC", "svhn", 68.5, 87.5, 90.1, _OWN),
    _fixed("DC", "mnist", 91.7, 97.4, 98.8, _OWN),
    _fixed("DSA", "mnist", 88.7, 97.8, 99.2, _OWN),
    _fixed("IDC", "mnist", 94.2, 98.4, 99.1, _OWN),
    _fixed("DC", "fashion_mnist", 70.5, 82.3, 83.6, _OWN),
    _fixed("DSA", "fashion_mnist", 70.6, 84.6, 88.7, _OWN),
    _fixed("IDC", "fashion_mnist", 81.0, 86.0, 86.2, _OWN),
)

WHOLE_SETS: Mapping[str, tuple[float, str]] = {"cifar10": (0.848, _OTHER)}
"""Accuracy of ConvNet-3 trained on the whole training set and its source, by dataset."""
