"""Published accuracies, with their sources.

lines = published("cifar10", "fixed")
lines[0].method, lines[0].accuracies, lines[0].source

They were not measured here and are never mixed with rows: code and budgets differ, and most of the methods of `fixed`
report the best of several tests on the test split. DiM's own are `on_the_fly`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Published", "published"]

_OWN = "its own paper"
_NCFM = "NCFM's paper"
_OTHER = "another paper's comparison"

# By dataset: method, accuracy in % at 1, 10 and 50 images per class, source.
_FIXED = {
    "cifar10": (
        ("DC", 28.3, 44.9, 53.9, _OWN),
        ("DSA", 28.8, 52.1, 60.6, _OWN),
        ("DM", 26.0, 48.9, 63.0, _NCFM),
        ("MTT", 46.3, 65.3, 71.6, _NCFM),
        ("FRePo", 46.8, 65.5, 71.7, _NCFM),
        ("IDC", 50.6, 67.5, 74.5, _OWN),
        ("DATM", 46.9, 66.8, 76.1, _OTHER),
        ("RDED", 23.5, 50.2, 68.4, _OTHER),
        ("NCFM", 49.5, 71.8, 77.4, _OWN),
        ("AutoPalette", 58.6, 74.3, 79.4, _OWN),
        ("GSDD", 67.6, 75.5, 77.7, _OWN),
    ),
    "svhn": (("DC", 31.2, 76.1, 82.3, _OWN), ("DSA", 27.5, 79.2, 84.4, _OWN), ("IDC", 68.5, 87.5, 90.1, _OWN)),
    "mnist": (("DC", 91.7, 97.4, 98.8, _OWN), ("DSA", 88.7, 97.8, 99.2, _OWN), ("IDC", 94.2, 98.4, 99.1, _OWN)),
    "fashion_mnist": (
        ("DC", 70.5, 82.3, 83.6, _OWN),
        ("DSA", 70.6, 84.6, 88.7, _OWN),
        ("IDC", 81.0, 86.0, 86.2, _OWN),
    ),
}
# By dataset: DiM's architectures and accuracy in % at 10 images per class.
_ON_THE_FLY = {"cifar10": (("ConvNet-3", 72.6), ("ResNet-18", 75.1))}


@dataclass(frozen=True, kw_only=True)
class Published:
    """A method's accuracies, as a paper prints them."""

    method: str
    accuracies: Mapping[int, float]
    """Test accuracy in [0, 1] by images per class."""
    source: str
    """Where the figures are printed."""
    architecture: str = "ConvNet-3"


def published(dataset: str, protocol: str) -> list[Published]:
    """Return the published accuracies on a dataset under a protocol, fixed or on_the_fly."""
    if protocol == "fixed":
        return [
            Published(method=method, accuracies={1: one / 100, 10: ten / 100, 50: fifty / 100}, source=source)
            for method, one, ten, fifty, source in _FIXED.get(dataset, ())
        ]
    return [
        Published(method=f"DiM, {name}", accuracies={10: ten / 100}, source=_OWN, architecture=name)
        for name, ten in _ON_THE_FLY.get(dataset, ())
    ]
