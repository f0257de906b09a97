"""Images in folders, one folder per class: `--dataset folder:PATH`.

    PATH/train/cat/1.png PATH/train/dog/1.png PATH/test/cat/2.png ...     with a test split, or
    PATH/cat/1.png PATH/dog/1.png ...                                     without one

A validation split may lie in PATH/validation (or valid, val). Classes are numbered in the order of their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dim_ray.core.data.decoding import Decoder, join
from dim_ray.core.data.splits import Source, Split
from dim_ray.errors import DataError

__all__ = ["read_folder"]

_SPLIT_FOLDERS = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}
_EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def read_folder(path: str) -> Source:
    """Read a data set of one folder per class from a local folder, whose ~ is expanded.

    Raises:
        DataError: The folder is missing or empty, splits have different classes, or an image is unusable.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        what = "isn't a folder" if root.exists() else "doesn't exist"
        raise DataError(f"folder:{path}: {root} {what}. Give a folder that has a folder of images for every class.")
    folders = _split_folders(root)
    class_names = _class_names(folders)
    decoder = Decoder()
    batches: dict[str, list[NDArray[np.uint8]]] = {}
    labels: dict[str, list[int]] = {}
    for split, folder in folders.items():
        batches[split], labels[split] = [], []
        for label, name in enumerate(class_names):
            files = _image_files(folder / name)
            batches[split].append(_decode(decoder, files))
            labels[split] += [label] * len(files)
    images = join(batches)
    splits = {split: Split(images=images[split], labels=torch.tensor(labels[split])) for split in folders}
    return Source(**splits, class_names=tuple(class_names))


def _split_folders(root: Path) -> dict[str, Path]:
    # A folder `train` of images, without folders, is a class: pictures of trains.
    splits: dict[str, list[str]] = {
        split: [name for name in names if _subfolders(root / name)] for split, names in _SPLIT_FOLDERS.items()
    }
    names = [name for folders in splits.values() for name in folders]
    if not names:
        return {"train": root}
    for split, folders in splits.items():
        if len(folders) > 1:
            raise DataError(f"{root} has {' and '.join(folders)}, and each would be its {split} split. Keep one.")
    others = [name for name in _subfolders(root) if name not in names]
    if others:
        raise DataError(
            f"{root} has the splits {', '.join(names)} and beside them {', '.join(others)}, which would be left out. "
            "Move them into a split, or away."
        )
    found = {split: root / folders[0] for split, folders in splits.items() if folders}
    if "train" not in found:
        raise DataError(
            f"{root} has a {' and a '.join(found)} split, but no {root / 'train'} with a folder for every class. "
            "Add it."
        )
    return found


def _class_names(folders: dict[str, Path]) -> list[str]:
    names = {split: _subfolders(folder) for split, folder in folders.items()}
    if not names["train"]:
        raise DataError(
            f"{folders['train']} has no folders; looked for a folder of images for every class, "
            "either there or in train and test below it."
        )
    for split, found in names.items():
        if found != names["train"]:
            missing = [f"{folders[split] / name} is missing" for name in names["train"] if name not in found]
            extra = [f"{folders['train'] / name} is missing" for name in found if name not in names["train"]]
            raise DataError(
                f"The classes of {folders['train']} and {folders[split]} differ: {', '.join(missing + extra)}. "
                "Every split needs the same class folders."
            )
    return names["train"]


def _subfolders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _image_files(folder: Path) -> list[Path]:
    files = [
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in _EXTENSIONS and file.is_file() and not _is_hidden(file.relative_to(folder))
    ]
    if not files:
        raise DataError(
            f"{folder} has no images; looked for files that end in {', '.join(_EXTENSIONS)}. "
            "Add images or remove the folder."
        )
    return sorted(files, key=lambda file: file.relative_to(folder).as_posix())


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _decode(decoder: Decoder, files: Sequence[Path]) -> NDArray[np.uint8]:
    return decoder.decode(files, lambda index: str(files[index]))
