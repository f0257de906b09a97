"""Encode labelled images as the files that other tools read.

    files = FORMATS["npz"](ImageSet(images=images, labels=labels, class_names=names, mean=mean, std=std))
    files["images.npz"]  # bytes

`python -m dim_ray.generate --help` has the formats. Images are bytes in [0, 255], except in the torch file: there they
are float32 normalised by mean and std, and weights_only=True loads it.
"""

from __future__ import annotations

import io
import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dim_ray.config.names import is_device, name_key, plain_name
from dim_ray.core.data.dataset import to_bytes
from dim_ray.core.data.split_names import role_of

__all__ = ["FORMATS", "PARQUET_FILE", "ImageSet", "class_folders"]

PARQUET_FILE = "train.parquet"


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Images with their labels, class names and normalisation."""

    images: Tensor  # (N, C, H, W) float32 in [0, 1]
    labels: Tensor  # (N,) int64
    class_names: tuple[str, ...]
    """Names by label."""
    mean: tuple[float, ...]
    """Means of the real training images' channels, in [0, 1]."""
    std: tuple[float, ...]
    """Standard deviations of the real training images' channels."""

    def as_bytes(self) -> NDArray[np.uint8]:
        """Return the images as (N, H, W, C) in [0, 255]."""
        pixels: NDArray[np.uint8] = to_bytes(2 * self.images - 1).permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return pixels


def class_folders(names: Sequence[str]) -> list[str]:
    """Return a folder per class, distinct and in the order of the labels on any disk.

    They begin with the label if the names don't suffice, or if `--dataset folder:PATH` would take them for splits.
    """
    folders = [plain_name(name, "_") for name in names]
    are_distinct = len({name_key(folder) for folder in folders}) == len(folders)
    are_in_order = all(
        [unicodedata.normalize(form, folder) for folder in folders]
        == sorted(unicodedata.normalize(form, folder) for folder in folders)
        for form in ("NFC", "NFD")  # as disks may have them
    )
    are_classes = not all(role_of(folder) for folder in folders)
    if are_distinct and are_in_order and are_classes and not any(is_device(folder) for folder in folders):
        return folders
    digits = len(str(len(names) - 1))
    return [f"{label:0{digits}}-{folder}" for label, folder in enumerate(folders)]


def _folder(images: ImageSet) -> dict[str, bytes]:
    folders, counts = class_folders(images.class_names), [0] * len(images.class_names)
    digits = len(str(max(len(images.labels) - 1, 0)))
    files = {}
    for pixels, label in zip(images.as_bytes(), images.labels.tolist(), strict=True):
        files[f"{folders[label]}/{counts[label]:0{digits}}.png"] = _png(pixels)
        counts[label] += 1
    return files


def _npz(images: ImageSet) -> dict[str, bytes]:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        images=images.as_bytes(),
        labels=images.labels.cpu().numpy(),
        class_names=np.array(images.class_names),
        mean=np.array(images.mean),
        std=np.array(images.std),
    )
    return {"images.npz": buffer.getvalue()}


def _parquet(images: ImageSet) -> dict[str, bytes]:
    encoded = [{"bytes": _png(pixels), "path": None} for pixels in images.as_bytes()]
    features = {"image": {"_type": "Image"}, "label": {"names": list(images.class_names), "_type": "ClassLabel"}}
    schema = pa.schema(
        {"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "label": pa.int64()},
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    table = pa.table({"image": encoded, "label": images.labels.tolist()}, schema=schema)
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    return {PARQUET_FILE: buffer.getvalue().to_pybytes()}


def _torch(images: ImageSet) -> dict[str, bytes]:
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (images.mean, images.std))
    normal = ((images.images.cpu() - mean) / std).contiguous()
    buffer = io.BytesIO()
    names = {"class_names": list(images.class_names), "mean": list(images.mean), "std": list(images.std)}
    torch.save({"data": [[normal, images.labels.cpu()]], **names}, buffer)
    return {"images.pt": buffer.getvalue()}


FORMATS: Mapping[str, Callable[[ImageSet], dict[str, bytes]]] = {
    "folder": _folder,
    "npz": _npz,
    "parquet": _parquet,
    "torch": _torch,
}
"""Encoders by name; each returns contents by path."""


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode one image (H, W, C)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()
