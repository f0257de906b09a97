"""Images of generators: the grid that lies beside each, made small enough for a page.

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
_WIDEST_PIXELS = 700
_HIGHEST_PIXELS = 750  # of a hundred classes, the first are shown


def samples(artifacts: ArtifactStore, best: Best) -> Picture | None:
    """Returns images of a generator, a row a class, or None where there are none to be had."""
    data = artifacts.read_bytes(f"generators/{best.generator}/{_FILE}")
    if data is None:
        return None
    try:
        grid = Image.open(io.BytesIO(data)).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # what Pillow raises of damaged files
        return None
    if grid.width > _WIDEST_PIXELS:
        grid = grid.resize((_WIDEST_PIXELS, grid.height * _WIDEST_PIXELS // grid.width), Image.Resampling.BOX)
    is_cut = grid.height > _HIGHEST_PIXELS
    grid = grid.crop((0, 0, grid.width, min(grid.height, _HIGHEST_PIXELS)))
    buffer = io.BytesIO()
    grid.save(buffer, format="PNG", optimize=True)
    cut = " The first classes; the file has all of them." if is_cut else ""
    return Picture(
        name=f"images-{best.dataset}",
        png=buffer.getvalue(),
        alt=f"Generated images of {best.dataset}, a row for each class, in the order of the labels.",
        caption=f"Images of generator {best.generator}, a row a class.{cut}",
        size=grid.size,
    )
