"""The gallery: what the best generators draw between two images, the real images nearest to theirs, and what that says.

section = gallery(artifacts, bests, data_root=None)
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from dim_ray.core.data.dataset import Dataset, to_bytes
from dim_ray.core.data.memorisation import memorisation_in, nearest
from dim_ray.core.generator.networks import Generator
from dim_ray.core.generator.sample_grid import sample_grid
from dim_ray.core.training.random import stream
from dim_ray.errors import StorageError
from dim_ray.pipeline.generators import SAMPLES_FILE, generator_from_artifact
from dim_ray.pipeline.stored_data import stored_data
from dim_ray.reporting.cells import Best
from dim_ray.reporting.content import Picture, Section, Table
from dim_ray.store.artifacts import ArtifactStore

__all__ = ["gallery", "interpolate", "samples"]

_MOST_CLASSES = 10
_STEPS = 9  # from one latent vector to another, both included
_PER_CLASS = 100  # images among which the nearest to real ones are looked for
_PAIRS = 4
_MAX_WIDTH = 700  # pixels
_MAX_HEIGHT = 750
_TEXT = "What the best generators draw, and whether they return their training images."


def gallery(
    artifacts: ArtifactStore, bests: Sequence[Best], *, data_root: str | None = None, shows_own: bool = False
) -> Section:
    """Return the section; generators whose files are missing or damaged are left out.

    With `shows_own` also training images of data that aren't known by name, and may be confidential.
    """
    pictures: list[Picture] = []
    rows: list[Sequence[str]] = []
    for best in bests:
        try:
            artifact = artifacts.read("generators", best.generator)
            network = generator_from_artifact(artifact, "raw" if best.weights == "raw" else "average")
        except StorageError:
            continue
        pictures.append(_between(best, network, artifact.card["dataset"]["class_names"]))
        dataset = stored_data(artifacts, artifact.card, data_root=data_root, only_known=not shows_own)
        if dataset is not None:
            pictures.append(_neighbours(best, network, dataset))
        if (found := memorisation_in(artifact.card)) is not None:
            rows.append((best.dataset, f"{found.verdict()} {found.limits()}"))
    tables = [Table(caption="Memorisation", columns=("dataset", "verdict"), rows=rows)] if rows else []
    return Section(key="gallery", title="Gallery", text=_TEXT, pictures=pictures, tables=tables)


def samples(artifacts: ArtifactStore, best: Best) -> Picture | None:
    """Return the sample grid beside a generator, or None if it's missing or damaged."""
    data = artifacts.read_bytes(f"generators/{best.generator}/{SAMPLES_FILE}")
    if data is None:
        return None
    try:
        return _grid_picture(
            data,
            name=f"images-{best.dataset}",
            alt=f"Generated images of {best.dataset}, one row per class, in the order of the labels.",
            caption=f"Images of generator {best.generator}, one row per class.",
        )
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # what Pillow raises for damaged files
        return None


def interpolate(first: Tensor, last: Tensor, num_steps: int) -> Tensor:
    """Return latent vectors (num_steps, D) on the great circle from one to another (D,), their lengths in between."""
    angle = torch.arccos(torch.nn.functional.cosine_similarity(first, last, dim=0))
    shares = torch.linspace(0, 1, num_steps)[:, None]
    return (torch.sin((1 - shares) * angle) * first + torch.sin(shares * angle) * last) / torch.sin(angle)


@torch.no_grad()
def _between(best: Best, network: Generator, class_names: Sequence[str]) -> Picture:
    names = class_names[:_MOST_CLASSES]
    ends = network.noise(2, stream(0, "gallery", "ends"))
    noise = interpolate(ends[0], ends[1], _STEPS).repeat(len(names), 1)
    images = to_bytes(network(noise, torch.arange(len(names)).repeat_interleave(_STEPS)))
    return _grid_picture(
        sample_grid(images.view(len(names), _STEPS, *images.shape[1:]), names),
        name=f"between-{best.dataset}",
        alt=f"Generated images of {best.dataset}: in each row, a class changes from one latent vector to another.",
        caption=f"{best.dataset}: the same way from one latent vector to another, in every class.{_cut(class_names)}",
    )


@torch.no_grad()
def _neighbours(best: Best, network: Generator, dataset: Dataset) -> Picture:
    names, rng, rows = dataset.class_names[:_MOST_CLASSES], stream(0, "gallery", "neighbours"), []
    for label in range(len(names)):
        images = to_bytes(network.sample(torch.full((_PER_CLASS,), label), rng))
        distances, places = nearest(images, dataset.train.images, 1)
        closest = distances[:, 0].argsort()[:_PAIRS]
        chosen, real = images[closest], dataset.train.images[places[closest, 0]]
        rows.append(torch.stack([chosen, real], dim=1))
    pairs = torch.stack(rows, dim=1)  # (pairs, classes, 2, C, H, W)
    grids = [sample_grid(pair, [""] * len(names) if place else names) for place, pair in enumerate(pairs)]
    return _grid_picture(
        _side_by_side(grids),
        name=f"neighbours-{best.dataset}",
        alt=f"Pairs of a generated image of {best.dataset} and the training image nearest to it, one row per class.",
        caption=(
            f"{best.dataset}: {_PAIRS} pairs per class, left generated, right the nearest training image. These are "
            f"the nearest pairs of {_PER_CLASS} images per class.{_cut(dataset.class_names)}"
        ),
    )


def _cut(class_names: Sequence[str]) -> str:
    hidden = len(class_names) > _MOST_CLASSES
    return f" The first {_MOST_CLASSES} of {len(class_names)} classes." if hidden else ""


def _grid_picture(png: bytes, *, name: str, alt: str, caption: str) -> Picture:
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


def _side_by_side(pngs: Sequence[bytes]) -> bytes:
    """Return PNGs of one height as one, from left to right."""
    parts = [Image.open(io.BytesIO(png)) for png in pngs]
    whole, left = Image.new("RGB", (sum(part.width for part in parts), parts[0].height)), 0
    for part in parts:
        whole.paste(part, (left, 0))
        left += part.width
    buffer = io.BytesIO()
    whole.save(buffer, format="PNG")
    return buffer.getvalue()
