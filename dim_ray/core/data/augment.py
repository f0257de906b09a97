"""Differentiable siamese augmentation (DSA): random changes of whole batches that gradients flow through.

    rng = stream(0, "augment", step=7)
    augmentation = draw_augmentation("flip+color+crop|scale", rng)
    loss = distance(augmentation(real), augmentation(generated))      # the same change for both halves
    images = augment(images, "color+crop", rng)                       # drawn and applied in one call

`dim_ray.config.augmentation` has the language. Only `scale` and `rotate` interpolate.

Operations and parameters are those of Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation",
arXiv 2102.08259. Their code draws one operation for a whole batch. Here each image draws its own, unless the batch
shares its parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from dim_ray.config.augmentation import AugmentationStep, parse_augmentation

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

_WHERE = "the augmentation"


@dataclass(frozen=True)
class Operation:
    """One of DSA's operations."""

    num_draws: int
    """Random numbers per image."""
    apply: Callable[[Tensor, Tensor], Tensor]
    """From images (B, C, H, W) and random numbers (num_draws, B or 1), uniform in [0, 1), to new images."""


Augmentation = Callable[[Tensor], Tensor]
"""From normalised images (B, C, H, W) to changed ones of the same shape, type and device."""


def draw_augmentation(strategy: str, rng: torch.Generator) -> Augmentation:
    """Draw one set of parameters for all images, of any number of batches.

    `rng` is on the images' device, so that nothing is copied from the host.
    """
    return _make(strategy, _draw(strategy, 1, rng))


def augment(images: Tensor, strategy: str, rng: torch.Generator) -> Tensor:
    """Augment normalised images (B, C, H, W), each with its own parameters."""
    return augment_parts(images, strategy, [rng])


def augment_parts(images: Tensor, strategy: str, rngs: Sequence[torch.Generator]) -> Tensor:
    """Augment S equal parts of normalised images (S x B, C, H, W) as `augment` would, each with its own stream."""
    uniforms = torch.cat([_draw(strategy, len(images) // len(rngs), rng) for rng in rngs], dim=1)
    return _make(strategy, uniforms)(images)


def _draw(strategy: str, count: int, rng: torch.Generator) -> Tensor:
    """Return the random numbers of all steps, (draws, count) in [0, 1)."""
    num_draws = sum(map(_num_draws, parse_augmentation(strategy, _WHERE)))
    return torch.rand(num_draws, count, generator=rng, device=rng.device)


def _num_draws(step: AugmentationStep) -> int:
    """Return the rows of random numbers of a step: whether it's applied, which operation, its parameters."""
    own = sum(OPERATIONS[name].num_draws for name in step.operations)
    return (step.probability < 1) + (len(step.operations) > 1) + own


def _make(strategy: str, uniforms: Tensor) -> Augmentation:
    steps, first = [], 0
    for step in parse_augmentation(strategy, _WHERE):
        last = first + _num_draws(step)
        steps.append(_make_step(step, uniforms[first:last]))
        first = last
    return lambda images: reduce(lambda changed, step: step(changed), steps, images)


def _make_step(step: AugmentationStep, uniforms: Tensor) -> Augmentation:
    operations = [OPERATIONS[name] for name in step.operations]
    if step.probability < 1:
        certain = replace(step, probability=1.0)
        return partial(_apply_sometimes, _make_step(certain, uniforms[1:]), uniforms[0] < step.probability)
    if len(operations) == 1:
        return partial(_apply, operations[0], uniforms)
    choices = _whole(uniforms[0], len(operations))
    draws = torch.split(uniforms[1:], [operation.num_draws for operation in operations])
    if not _is_on_host(uniforms):
        return partial(_apply_masked, operations, draws, choices)
    if uniforms.shape[1] == 1:
        return partial(_apply, operations[int(choices[0])], draws[int(choices[0])])
    return _Grouped(operations, draws, choices)


def _is_on_host(uniforms: Tensor) -> bool:
    return uniforms.device.type == "cpu"


def _apply(operation: Operation, draws: Tensor, images: Tensor) -> Tensor:
    return operation.apply(images, draws)


def _apply_sometimes(step: Augmentation, is_applied: Tensor, images: Tensor) -> Tensor:
    return torch.where(is_applied[:, None, None, None], step(images), images)


def _apply_masked(operations: Sequence[Operation], draws: Sequence[Tensor], choices: Tensor, images: Tensor) -> Tensor:
    """Apply each image's own operation. Reading the choices would wait for the device, so all see every image."""
    chosen, changed = choices[:, None, None, None], images
    for number, (operation, own) in enumerate(zip(operations, draws, strict=True)):
        changed = torch.where(chosen == number, operation.apply(images, own), changed)
    return changed


class _Grouped:
    """One operation per image, with the choices on the host: each operation sees only its own images."""

    def __init__(self, operations: Sequence[Operation], draws: Sequence[Tensor], choices: Tensor) -> None:
        self._order = choices.argsort(stable=True)
        self._inverse = self._order.argsort()
        self._operations = operations
        self._lengths = choices.bincount(minlength=len(operations)).tolist()
        grouped = (torch.split(own[:, self._order], self._lengths, dim=1) for own in draws)
        self._draws = [own[number] for number, own in enumerate(grouped)]

    def __call__(self, images: Tensor) -> Tensor:
        groups = torch.split(images.index_select(0, self._order), self._lengths)
        changed = [
            operation.apply(group, own)
            for operation, own, group in zip(self._operations, self._draws, groups, strict=True)
            if len(group)
        ]
        return torch.cat(changed).index_select(0, self._inverse) if changed else images


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
