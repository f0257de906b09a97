"""Whether a generator returns its training images: distances to them, in pixels, beside held-out real images.

    found = measure_memorisation(images, dataset)
    found.verdict()     # "No sign of memorisation in 1,000 generated images: ..."

Generated images of a generator that memorised nothing are as near to held-out images as to training images. So the
share whose nearest real image is a training image is the training images' share of all real ones, up to chance (Platzer
and Reutterer, arXiv 2104.00635, with sets of equal size). Comparing distances to training images of generated and of
held-out images (Meehan et al., arXiv 2004.05675) would take a smooth image for a copy: it's near to everything.

Pixels, because the features of teachers, which were trained on the same images, tell these from held-out ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dim_ray.core.data.dataset import Dataset
from dim_ray.core.training.random import stream

__all__ = ["NUM_IMAGES", "Memorisation", "held_out_images", "measure_memorisation", "memorisation_in", "nearest"]

NUM_IMAGES = 1000
"""Images to generate; also the most held-out images whose distances are measured."""

_COPY = 0.5  # of the distance to the second nearest training image
_MANY = 3.0  # standard errors, and times as many copies as among held-out images
_BLOCK = 4000  # real images at a time: bounds memory


@dataclass(frozen=True, kw_only=True)
class Memorisation:
    """Generated and held-out images beside the training images."""

    num_generated: int
    num_held_out: int
    """Held-out images whose distances were measured."""
    distance: float
    """Median over generated images of the distance to the nearest training image: root mean square over pixels, in
    [0, 1]."""
    held_out_distance: float
    """The same of held-out images."""
    num_copies: int
    """Generated images at less than half of the distance to their nearest training image than to any other."""
    num_held_out_copies: int
    """The same of held-out images."""
    excess: float
    """Share of generated images that lie nearer to training images than chance explains; below 0 by chance."""
    excess_error: float
    """Standard error of `excess` if nothing was memorised."""

    @property
    def is_memorised(self) -> bool:
        """Whether near copies are more frequent than among held-out images, or the excess is more than chance."""
        usual = max(1, self.num_held_out_copies) / self.num_held_out
        return self.num_copies / self.num_generated > _MANY * usual or self.excess > _MANY * self.excess_error

    def verdict(self) -> str:
        """Return a verdict in words."""
        images = f"{self.num_generated:,} generated images"
        nearer = f"{100 * self.excess:.0f} ± {100 * self.excess_error:.0f} % of them lie nearer to training images"
        copies = f"{self.num_copies:,} of {images} are near copies of training images"
        if self.is_memorised:
            return (
                f"Training images are memorised: {copies}, and {nearer} than chance explains. Don't share this "
                "generator in place of confidential data."
            )
        return f"No sign of memorisation: {copies}, and {nearer}, which chance explains."

    def limits(self) -> str:
        """Return the distances, and what they don't say."""
        return (
            f"The median distance to the nearest training image is {self.distance:.3f} for generated and "
            f"{self.held_out_distance:.3f} for held-out real images (root mean square over pixels in [0, 1]); "
            f"{self.num_held_out_copies:,} of {self.num_held_out:,} held-out images look like copies, too. Pixels show "
            "no shifted or recoloured copies: this is a test, not a guarantee of privacy."
        )


def measure_memorisation(images: Tensor, dataset: Dataset) -> Memorisation:
    """Compare generated images, (N, C, H, W) uint8, with the training and held-out images of a data set."""
    train, held_out = dataset.train.images, held_out_images(dataset)
    chosen = torch.randperm(len(held_out), generator=stream(0, "memorisation"))[:NUM_IMAGES].to(held_out.device)
    measured = held_out[chosen]
    own, places = nearest(images, train, 2)
    own_held_out, other_places = nearest(images, held_out, 1)
    theirs, _ = nearest(measured, train, 2)
    is_nearest = own[:, 0] < own_held_out[:, 0]
    hits = torch.where(is_nearest, places[:, 0], len(train) + other_places[:, 0])
    excess, error = _excess(is_nearest, hits, len(train), len(held_out))
    return Memorisation(
        num_generated=len(images),
        num_held_out=len(measured),
        distance=float(own[:, 0].median()),
        held_out_distance=float(theirs[:, 0].median()),
        num_copies=_num_copies(own),
        num_held_out_copies=_num_copies(theirs),
        excess=excess,
        excess_error=error,
    )


def memorisation_in(card: Mapping[str, Any]) -> Memorisation | None:
    """Return what a generator's card says; None if it was made by an earlier version, or a later one."""
    try:
        return Memorisation(**card["memorisation"])
    except (KeyError, TypeError):
        return None


def held_out_images(dataset: Dataset) -> Tensor:
    """Return the validation images, and the test images if they were held out of the training images, too."""
    splits = [dataset.validation, *([dataset.test] if "test" in dataset.held_out else [])]
    return torch.cat([split.images for split in splits])


def nearest(images: Tensor, real: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return ascending distances to the nearest of real images (M, C, H, W), and their indices, (N, count) each.

    All images are uint8, and M is at least `count`.
    """
    flat = images.flatten(1).to(torch.float32) / 255
    found: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(real), _BLOCK):
        block = real[start : start + _BLOCK].flatten(1).to(torch.float32) / 255
        distances, places = torch.cdist(flat, block).topk(min(count, len(block)), largest=False)
        found.append((distances, places + start))
    distances, order = torch.cat([part for part, _ in found], dim=1).topk(count, largest=False)
    places = torch.cat([part for _, part in found], dim=1).gather(1, order)
    return distances / math.sqrt(flat.shape[1]), places


def _num_copies(distances: Tensor) -> int:
    """Return how many images have distances (N, 2) to the two nearest training images as a copy has."""
    return int((distances[:, 0] < _COPY * distances[:, 1]).sum())


def _excess(is_nearest: Tensor, hits: Tensor, num_train: int, num_held_out: int) -> tuple[float, float]:
    """Return the excess share of images whose nearest real image is a training image, and its standard error.

    `is_nearest` (N,) says whether it's a training image, and `hits` (N,) are its indices among all real images. The
    error is exact where any of these might have been held out. Images with the same nearest one count as one draw.
    """
    num_images, num_real = len(hits), num_train + num_held_out
    chance = num_train / num_real
    squares = float(torch.bincount(hits).to(torch.float64).square().sum())
    pairs = squares - (num_images**2 - squares) / (num_real - 1)
    error = math.sqrt(max(0.0, chance * (1 - chance) * pairs)) / num_images
    share = float(is_nearest.to(torch.float64).mean())
    return (share - chance) / (1 - chance), error / (1 - chance)
