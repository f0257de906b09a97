"""Small image data sets that tests write for themselves."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image


def pixels(count: int, *, size: int = 8, channels: int = 1, seed: int = 0) -> NDArray[np.uint8]:
    """Returns random images, (N, C, H, W)."""
    return np.random.default_rng(seed).integers(0, 256, (count, channels, size, size), dtype=np.uint8)


def picture(image: NDArray[np.uint8]) -> Image.Image:
    """Returns a (C, H, W) image as Pillow's."""
    return Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))


def encode(image: NDArray[np.uint8] | Image.Image, kind: str = "PNG") -> bytes:
    """Returns the contents of an image file."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else picture(image)).save(buffer, kind)
    return buffer.getvalue()


def write_parquet(
    path: Path,
    images: Sequence[Any],
    labels: Sequence[Any],
    *,
    names: Sequence[str] | None = None,
    image_column: str = "image",
    label_column: str = "label",
) -> Path:
    """Writes a file in the Hugging Face layout; an image is an array, encoded bytes, or None."""
    encoded = [image if image is None or isinstance(image, bytes) else encode(image) for image in images]
    table = pa.table(
        {
            image_column: pa.array(
                [None if item is None else {"bytes": item, "path": None} for item in encoded],
                type=pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
            ),
            label_column: pa.array(labels),
        }
    )
    if names is not None:
        features = {image_column: {"_type": "Image"}, label_column: {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def write_folder(root: Path, classes: dict[str, NDArray[np.uint8]]) -> Path:
    """Writes a folder of PNGs for every class."""
    for name, images in classes.items():
        (root / name).mkdir(parents=True)
        for index, image in enumerate(images):
            picture(image).save(root / name / f"{index:03}.png")
    return root
