"""Differentiable siamese augmentation (DSA): random changes of whole batches that gradients flow through.

    rng = stream(0, "augment", step=7)
    augmentation = draw_augmentation("color_crop_flip", batch_size=64, image_size=32, rng=rng, shared=True)
    loss = distance(augmentation(real), augmentation(generated))      # the same change for both halves
    images = augment(images, "color+crop", rng)                       # drawn and applied in one call

A strategy is `none`; operations joined by `_`, of which one is drawn (DSA's own way); or operations joined by `+`,
which are all applied, in the order written. Only `scale` and `rotate` interpolate.

Operations and parameters are those of Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation",
arXiv 2102.08259, and its code, which draws one operation of `_` for a whole batch. Here each image draws its own,
unless the batch shares its parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from dim_ray.errors import ConfigError, nearest

__all__ = ["OPERATIONS", "Augmentation", "Operation", "augment", "augment_parts", "draw_augmentation"]

# Published parameters (arXiv 2102.08259). Brightness is in units of normalised images.
BRIGHTNESS_RANGE = 1.0  # added: uniform in an interval of this width around 0
SATURATION_MAX = 2.0  # factor on the difference from the channels' mean: uniform in [0, this)
CONTRAST_MIN = 0.5  # factor on the difference from the image's mean: uniform in [this, this + 1)
CROP_SHARE = 0.125  # largest shift, as a share of the size
CUTOUT_SHARE = 0.5  # side of the square that is blanked, as a share of the size
FLIP_PROBABILITY = 0.5  # of mirroring left to right
SCALE_RATIO = 1.2  # width and height of what is seen: each uniform in [1 / this, this) of the image's own
ROTATE_DEGREES = 15.0  # largest angle to either side


@dataclass(frozen=True)
class Operation:
    """One of DSA's operations."""

    num_draws: int
    """Random numbers per image."""
    apply: Callable[[Tensor, Tensor], Tensor]
    """From images (B, C, H, W) and random numbers (num_draws, B or 1), uniform in [0, 1), to new images."""


class Augmentation:
    """Operations with their random numbers, for any number of batches.

    Args:
        operations: Operations to choose from, or to apply in turn.
        uniforms: Random numbers of all operations, (D, B or 1) float32 in [0, 1). Those of one image fit every batch.
        image_size: Height and width of the images, in pixels.
        choices: Number of each image's operation, (B or 1,) int64; None applies all to every image.
    """

    def __init__(
        self, operations: Sequence[Operation], uniforms: Tensor, *, image_size: int, choices: Tensor | None = None
    ) -> None:
        self._operations = operations
        self._uniforms = uniforms
        self._image_size = image_size
        self._choices = choices

    def __call__(self, images: Tensor) -> Tensor:
        """Return changed images of the same shape, type and device.

        Args:
            images: (B, C, H, W) normalised, float.

        Raises:
            ConfigError: Size or number of the images differ from those that it was drawn for.
        """
        drawn_for = self._uniforms.shape[1]
        if images.shape[-1] != self._image_size or drawn_for not in (1, len(images)):
            batch = "any number of" if drawn_for == 1 else drawn_for
            raise ConfigError(
                f"an augmentation drawn for {batch} images of {self._image_size} pixels got {len(images)} of "
                f"{images.shape[-1]}; draw one for these, or share one set of parameters over batches of any length."
            )
        return self._apply(images, self._uniforms.to(images.device))

    def _apply(self, images: Tensor, uniforms: Tensor) -> Tensor:
        draws = torch.split(uniforms, [operation.num_draws for operation in self._operations])
        if self._choices is None:
            for operation, own in zip(self._operations, draws, strict=True):
                images = operation.apply(images, own)
            return images
        # Reading the choices would wait for the device, so every operation sees every image.
        choices = self._choices.to(images.device)[:, None, None, None]
        for number, (operation, own) in enumerate(zip(self._operations, draws, strict=True)):
            images = torch.where(choices == number, operation.apply(images, own), images)
        return images


class _GroupedAugmentation(Augmentation):
    """One operation per image, with the choices on the host: each operation sees only its own images."""

    def __init__(self, operations: Sequence[Operation], uniforms: Tensor, *, image_size: int, choices: Tensor) -> None:
        order = choices.argsort(stable=True)
        super().__init__(operations, uniforms[:, order], image_size=image_size)
        self._order = order
        self._inverse = order.argsort()
        self._lengths = choices.bincount(minlength=len(operations)).tolist()

    def _apply(self, images: Tensor, uniforms: Tensor) -> Tensor:
        groups = torch.split(images.index_select(0, self._order.to(images.device)), self._lengths)
        draws = torch.split(uniforms, self._lengths, dim=1)
        changed, first = [], 0
        for operation, group, own in zip(self._operations, groups, draws, strict=True):
            last = first + operation.num_draws
            if len(group):
                changed.append(operation.apply(group, own[first:last]))
            first = last
        return torch.cat(changed).index_select(0, self._inverse.to(images.device)) if changed else images


def draw_augmentation(
    strategy: str, *, batch_size: int, image_size: int, rng: torch.Generator, shared: bool
) -> Augmentation:
    """Draw the parameters of an augmentation.

    Args:
        strategy: ``none``, or operations joined by ``_`` (one of them) or ``+`` (all of them).
        batch_size: Number of images.
        image_size: Height and width of the images, in pixels.
        rng: Source of all random numbers. With one on the CPU, only operations that were drawn are computed.
        shared: Whether all images get the same parameters.

    Raises:
        ConfigError: The strategy names an unknown operation.
    """
    return _make(strategy, _draw(strategy, 1 if shared else batch_size, rng), image_size=image_size, shared=shared)


def augment(images: Tensor, strategy: str, rng: torch.Generator) -> Tensor:
    """Augment normalised images (B, C, H, W), each with its own parameters."""
    return augment_parts(images, strategy, [rng])


def augment_parts(images: Tensor, strategy: str, rngs: Sequence[torch.Generator]) -> Tensor:
    """Augment S equal parts of normalised images (S x B, C, H, W) as `augment` would, each with its own stream."""
    uniforms = torch.cat([_draw(strategy, len(images) // len(rngs), rng) for rng in rngs], dim=1)
    return _make(strategy, uniforms, image_size=images.shape[-1], shared=False)(images)


def _draw(strategy: str, count: int, rng: torch.Generator) -> Tensor:
    """Return random numbers (draws, count) in [0, 1); if one operation is drawn, the first row chooses it."""
    operations, one_of_them = _parse(strategy)
    num_draws = sum(operation.num_draws for operation in operations)
    return torch.rand(num_draws + one_of_them, count, generator=rng, device=rng.device)


def _make(strategy: str, uniforms: Tensor, *, image_size: int, shared: bool) -> Augmentation:
    operations, one_of_them = _parse(strategy)
    if not one_of_them:
        return Augmentation(operations, uniforms, image_size=image_size)
    choices, uniforms = _whole(uniforms[0], len(operations)), uniforms[1:]
    if uniforms.device.type != "cpu":
        return Augmentation(operations, uniforms, image_size=image_size, choices=choices)
    if not shared:
        return _GroupedAugmentation(operations, uniforms, image_size=image_size, choices=choices)
    choice = int(choices[0])
    own = torch.split(uniforms, [operation.num_draws for operation in operations])[choice]
    return Augmentation([operations[choice]], own, image_size=image_size)


def _color(images: Tensor, draws: Tensor) -> Tensor:
    """Change brightness, saturation and contrast, multiplied out: one pass over the images instead of three."""
    brightness, saturation, contrast = draws.to(images.dtype)[:, :, None, None, None]
    brightness, saturation, contrast = (
        (brightness - 0.5) * BRIGHTNESS_RANGE,
        saturation * SATURATION_MAX,
        contrast + CONTRAST_MIN,
    )
    is_grey = images.shape[1] == 1
    grey = images if is_grey else images.mean(1, keepdim=True)
    constant = (1 - contrast) * grey.mean((2, 3), keepdim=True) + brightness
    if is_grey:
        return torch.addcmul(constant, images, contrast)
    return torch.addcmul(torch.addcmul(constant, grey, contrast * (1 - saturation)), images, contrast * saturation)


def _crop(images: Tensor, draws: Tensor) -> Tensor:
    """Shift by whole pixels; zeros come in at the border."""
    batch, channels, height, width = images.shape
    most_y, most_x = _pixels(CROP_SHARE, height), _pixels(CROP_SHARE, width)
    padded = F.pad(images, (most_x, most_x, most_y, most_y))
    rows = _whole(draws[0], 2 * most_y + 1)[:, None] + torch.arange(height, device=images.device)
    columns = _whole(draws[1], 2 * most_x + 1)[:, None] + torch.arange(width, device=images.device)
    pixels = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
    pixels = pixels.flatten(1)[:, None].expand(batch, channels, -1)
    return padded.flatten(2).gather(2, pixels).view(images.shape)


def _cutout(images: Tensor, draws: Tensor) -> Tensor:
    """Blank a square whose centre is anywhere in the image."""
    holes = []
    for own, size in zip(draws, images.shape[2:], strict=True):
        side = _pixels(CUTOUT_SHARE, size)
        first = _whole(own, size + 1 - side % 2)[:, None] - side // 2
        place = torch.arange(size, device=images.device)
        holes.append((place >= first) & (place < first + side))
    return images.masked_fill((holes[0][:, :, None] & holes[1][:, None, :])[:, None], 0)


def _flip(images: Tensor, draws: Tensor) -> Tensor:
    return torch.where((draws[0] < FLIP_PROBABILITY)[:, None, None, None], images.flip(3), images)


def _scale(images: Tensor, draws: Tensor) -> Tensor:
    extents = 1 / SCALE_RATIO + draws * (SCALE_RATIO - 1 / SCALE_RATIO)
    y, x = _coordinates(images)
    return _sample(images, extents[0][:, None, None] * x, extents[1][:, None, None] * y)


def _rotate(images: Tensor, draws: Tensor) -> Tensor:
    angles = ((2 * draws[0] - 1) * math.radians(ROTATE_DEGREES))[:, None, None]
    y, x = _coordinates(images)
    return _sample(images, angles.cos() * x - angles.sin() * y, angles.sin() * x + angles.cos() * y)


OPERATIONS: dict[str, Operation] = {
    "color": Operation(3, _color),
    "crop": Operation(2, _crop),
    "cutout": Operation(2, _cutout),
    "flip": Operation(1, _flip),
    "rotate": Operation(1, _rotate),
    "scale": Operation(2, _scale),
}


@lru_cache(maxsize=64)
def _parse(strategy: str) -> tuple[tuple[Operation, ...], bool]:
    """Return the operations of a strategy, and whether only one of them is drawn."""
    if strategy == "none":
        return (), False
    names = strategy.split("+" if "+" in strategy else "_")
    for name in names:
        if name not in OPERATIONS:
            raise ConfigError(
                f"augmentation {strategy!r} has the unknown operation {name!r}; {nearest(name, OPERATIONS)} "
                "Join several with '_' (one of them is drawn) or '+' (all are applied), or write 'none'."
            )
    return tuple(OPERATIONS[name] for name in names), "+" not in strategy and len(names) > 1


def _pixels(share: float, size: int) -> int:
    return int(share * size + 0.5)


def _whole(uniforms: Tensor, count: int) -> Tensor:
    """Map float32 numbers in [0, 1) to whole numbers in [0, count)."""
    return (uniforms * count).long()  # the largest float32 below 1 times a whole number rounds to below that number


def _coordinates(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return y (H, 1) and x (W,) of the pixels' centres; the image is the square from -1 to 1."""
    y, x = ((2 * torch.arange(size, device=images.device) + 1) / size - 1 for size in images.shape[2:])
    return y[:, None], x


def _sample(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the images' values at (x, y): bilinear, zero outside."""
    height, width = images.shape[2:]
    # affine_grid multiplies matrices, which autocast and TF32 would round to a fraction of a pixel.
    grid = torch.stack((x.expand(-1, height, width), y.expand(-1, height, width)), dim=-1).to(images.dtype)
    return F.grid_sample(images, grid.expand(len(images), -1, -1, -1), align_corners=False)
