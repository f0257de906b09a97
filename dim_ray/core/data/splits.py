"""Labelled images at rest, and how a share of every class is held out.

    rest, held_out = hold_out(split, 0.1, stream(0, "data", "validation"))

Sources fill a `Source`; `dim_ray.core.data.dataset` holds out what it lacks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dim_ray.config import IMAGE_SIZES
from dim_ray.errors import DataError

__all__ = ["Source", "Split", "check_image_size", "class_counts", "hold_out", "size_in_pixels"]


@dataclass(frozen=True, kw_only=True)
class Split:
    """Labelled images, all on one device."""

    images: Tensor
    """(N, C, H, W) uint8."""
    labels: Tensor
    """(N,) int64 in 0..K-1."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a source of images has, before anything is held out."""

    train: Split
    validation: Split | None = None
    test: Split | None = None
    class_names: tuple[str, ...]


def class_counts(split: Split, num_classes: int) -> list[int]:
    """Returns how many images each of the `num_classes` classes has."""
    counts: list[int] = torch.bincount(split.labels, minlength=num_classes).tolist()
    return counts


def hold_out(split: Split, fraction: float, rng: torch.Generator) -> tuple[Split, Split]:
    """Divides a split in two, class by class.

    Args:
        split: On the CPU, with at least two images of every class that it has.
        fraction: Share of every class that is held out, rounded, but at least one image and never all of them.
        rng: Chooses which. The same labels and state choose the same images.

    Returns:
        What is left, and what is held out; both keep the order of `split`.
    """
    is_held_out = torch.zeros(len(split), dtype=torch.bool)
    for label in range(int(split.labels.max()) + 1):
        members = (split.labels == label).nonzero().squeeze(1)
        if not len(members):
            continue
        num_held_out = max(1, min(len(members) - 1, round(len(members) * fraction)))
        is_held_out[members[torch.randperm(len(members), generator=rng)[:num_held_out]]] = True
    return _select(split, ~is_held_out), _select(split, is_held_out)


def check_image_size(size: tuple[int, int], where: str) -> None:
    """Checks that images of `size` (width, height), in pixels, can be generated.

    Raises:
        DataError: They are not square, too small or too large.
    """
    allowed = f"allowed: square images of {IMAGE_SIZES[0]} to {IMAGE_SIZES[-1]} pixels"
    if size[0] != size[1]:
        raise DataError(
            f"{where} is {size_in_pixels(size)}, which isn't square; {allowed}. Crop or pad the images first."
        )
    if size[0] not in IMAGE_SIZES:
        raise DataError(f"{where} is {size_in_pixels(size)}; {allowed}. Resize the images first.")


def size_in_pixels(size: tuple[int, int]) -> str:
    """Returns (width, height) as a person reads it."""
    return f"{size[0]}x{size[1]} pixels"


def _select(split: Split, mask: Tensor) -> Split:
    return Split(images=split.images[mask], labels=split.labels[mask])
