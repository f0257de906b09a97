"""Grids of images, small enough for a page.

picture = samples(artifacts, best)
"""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image

from dim_ray.reporting.cells import Best
from dim_ray.reporting.content import Picture
from dim_ray.store.artifacts import ArtifactStore

__all__ = ["grid_picture", "samples", "side_by_side"]

_FILE = "samples.png"
_MAX_WIDTH = 700  # pixels
_MAX_HEIGHT = 750


def samples(artifacts: ArtifactStore, best: Best) -> Picture | None:
    """Return the sample grid beside a generator, or None if it's missing or damaged."""
    data = artifacts.read_bytes(f"generators/{best.generator}/{_FILE}")
    if data is None:
        return None
    try:
        return grid_picture(
            data,
            name=f"images-{best.dataset}",
            alt=f"Generated images of {best.dataset}, one row per class, in the order of the labels.",
            caption=f"Images of generator {best.generator}, one row per class.",
        )
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # what Pillow raises for damaged files
        return None


def grid_picture(png: bytes, *, name: str, alt: str, caption: str) -> Picture:
    """Return a picture of a grid whose rows are classes, scaled down and cut."""
    grid = Image.open(io.BytesIO(png)).convert("RGB")
    if grid.width > _MAX_WIDTH:
        grid = grid.resize((_MAX_WIDTH, grid.height * _MAX_WIDTH // grid.width), Image.Resampling.BOX)
    is_cut = grid.height > _MAX_HEIGHT
    grid = grid.crop((0, 0, grid.width, min(grid.height, _MAX_HEIGHT)))
    buffer = io.BytesIO()
    grid.save(buffer, format="PNG", optimize=True)
    cut = " Only the first classes are shown; the file has all." if is_cut else ""
    return Picture(
        name=name,
        png=buffer.getvalue(),
        alt=alt,
        caption=f"{caption}{cut}",
        size=grid.size,
    )


def side_by_side(pngs: Sequence[bytes]) -> bytes:
    """Return PNGs of one height as one, from left to right."""
    parts = [Image.open(io.BytesIO(png)) for png in pngs]
    whole, left = Image.new("RGB", (sum(part.width for part in parts), parts[0].height)), 0
    for part in parts:
        whole.paste(part, (left, 0))
        left += part.width
    buffer = io.BytesIO()
    whole.save(buffer, format="PNG")
    return buffer.getvalue()
