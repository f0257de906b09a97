"""Images of a generator, small enough for a page.

picture = samples(artifacts, best)
"""

from __future__ import annotations

import io

from PIL import Image

from dim_ray.reporting.cells import Best
from dim_ray.reporting.content import Picture
from dim_ray.store.artifacts import ArtifactStore

__all__ = ["samples"]

_FILE = "samples.png"
_MAX_WIDTH = 700  # pixels
_MAX_HEIGHT = 750


def samples(artifacts: ArtifactStore, best: Best) -> Picture | None:
    """Return the sample grid beside a generator, or None if it's missing or damaged."""
    data = artifacts.read_bytes(f"generators/{best.generator}/{_FILE}")
    if data is None:
        return None
    try:
        grid = Image.open(io.BytesIO(data)).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # what Pillow raises for damaged files
        return None
    if grid.width > _MAX_WIDTH:
        grid = grid.resize((_MAX_WIDTH, grid.height * _MAX_WIDTH // grid.width), Image.Resampling.BOX)
    is_cut = grid.height > _MAX_HEIGHT
    grid = grid.crop((0, 0, grid.width, min(grid.height, _MAX_HEIGHT)))
    buffer = io.BytesIO()
    grid.save(buffer, format="PNG", optimize=True)
    cut = " Only the first classes are shown; the file has all." if is_cut else ""
    return Picture(
        name=f"images-{best.dataset}",
        png=buffer.getvalue(),
        alt=f"Generated images of {best.dataset}, one row per class, in the order of the labels.",
        caption=f"Images of generator {best.generator}, one row per class.{cut}",
        size=grid.size,
    )
