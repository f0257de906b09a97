"""A picture of a generator: a grid of its images, one row per class, as PNG bytes.

png = sample_grid(images, class_names)
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

__all__ = ["sample_grid"]

_TILE_PIXELS = 64
_GAP_PIXELS = 4
_FONT_PIXELS = 16
_BACKGROUND = (255, 255, 255)
_INK = (40, 40, 40)
_LONGEST_NAME = 24  # characters; more would make the picture mostly margin


def sample_grid(images: Tensor, class_names: Sequence[str]) -> bytes:
    """Return a PNG of N images of each class, (K, N, C, H, W) uint8, beside their class names.

    Images are enlarged by a whole factor, without smoothing; long names are cut.
    """
    num_classes, num_images = images.shape[:2]
    tile = images.shape[-1] * max(1, _TILE_PIXELS // images.shape[-1])
    font = ImageFont.load_default(_FONT_PIXELS)
    names = [_label(name) for name in class_names]
    margin = 2 * _GAP_PIXELS + math.ceil(max(font.getlength(name) for name in names))
    cell = tile + _GAP_PIXELS
    picture = Image.new("RGB", (margin + num_images * cell, _GAP_PIXELS + num_classes * cell), _BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for row in range(num_classes):
        top = _GAP_PIXELS + row * cell
        draw.text((_GAP_PIXELS, top + (tile - _FONT_PIXELS) // 2), names[row], fill=_INK, font=font)
        for column in range(num_images):
            array = images[row, column].permute(1, 2, 0).cpu().numpy()
            image = Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array)
            picture.paste(image.resize((tile, tile), Image.Resampling.NEAREST), (margin + column * cell, top))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def _label(name: str) -> str:
    """Return a class name on one line, cut if it is long."""
    line = " ".join(name.split())
    return line if len(line) <= _LONGEST_NAME else f"{line[: _LONGEST_NAME - 3]}..."
