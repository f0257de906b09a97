"""Labelled images, and how to hold out a share of every class.

rest, held_out = hold_out(split, 0.1, stream(0, "data", "validation"))
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
    """The splits that a source has; `load_dataset` holds out the others."""

    train: Split
    validation: Split | None = None
    test: Split | None = None
    class_names: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    """What was passed over or changed, for the person who runs the command."""


def class_counts(split: Split, num_classes: int) -> list[int]:
    """Return the number of images of each class."""
    counts: list[int] = torch.bincount(split.labels, minlength=num_classes).tolist()
    return counts


def hold_out(split: Split, fraction: float, rng: torch.Generator) -> tuple[Split, Split]:
    """Divide a split on the CPU in two: the rest, and a fraction of every class. Both keep their order.

    At least one image of every class is held out, and never all of its two or more.
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
    """Raise a DataError if images of this (width, height), in pixels, aren't square, or are too small or too large."""
    allowed = f"allowed: square images of {IMAGE_SIZES[0]} to {IMAGE_SIZES[-1]} pixels"
    if size[0] != size[1]:
        raise DataError(
            f"{where} is {size_in_pixels(size)}, which isn't square; {allowed}. Crop or pad the images first."
        )
    if size[0] not in IMAGE_SIZES:
        raise DataError(f"{where} is {size_in_pixels(size)}; {allowed}. Resize the images first.")


def size_in_pixels(size: tuple[int, int]) -> str:
    """Format (width, height) for messages."""
    return f"{size[0]}x{size[1]} pixels"


def _select(split: Split, mask: Tensor) -> Split:
    return Split(images=split.images[mask], labels=split.labels[mask])
