"""Images in folders, one folder per class: `--dataset folder:PATH`.

    PATH/train/cat/1.png PATH/train/dog/1.png PATH/test/cat/2.png ...     with a test split, or
    PATH/cat/1.png PATH/dog/1.png ...                                     without one

Splits are called as on the Hugging Face hub (`split_names`). Classes are numbered in the order of their names. Images
in folders below a class's folder belong to it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dim_ray.core.data.decoding import Decoder, join
from dim_ray.core.data.split_names import ROLES, SPLIT_WORDS, role_of, roles_in
from dim_ray.core.data.splits import Source, Split
from dim_ray.core.data.tree import Folder, read_tree, remark
from dim_ray.errors import DataError, listed

__all__ = ["read_folder"]

_COMMON = ".png, .jpg, .jpeg, .gif, .bmp, .tif, .webp"
_SNIFFED = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
# Formats that Pillow knows, but which are no plain images, or which it hands to other programs.
_NO_IMAGES = ("BUFR", "EPS", "FITS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF")
_OTHER_IMAGES = (
    ".arw", ".bufr", ".cr2", ".cr3", ".dcm", ".dng", ".emf", ".eps", ".exr", ".fit", ".fits", ".grib", ".h5", ".hdf",
    ".hdf5", ".hdr", ".heic", ".heics", ".heif", ".jxl", ".jxr", ".mat", ".mpeg", ".mpg", ".nef", ".nii", ".npy",
    ".npz", ".orf", ".pt", ".raf", ".raw", ".rw2", ".svg", ".svgz", ".wmf", ".xcf",
)  # fmt: skip


def read_folder(path: str) -> Source:
    """Read a data set of one folder per class from a local folder, whose ~ is expanded.

    Raises:
        DataError: The folder is missing or empty, splits have different classes, an image is unusable, or the folder's
            layout can be understood in two ways.
    """
    root = Path(os.path.expanduser(path))
    if not root.is_dir():
        what = "isn't a folder" if root.exists() else "doesn't exist"
        raise DataError(f"folder:{path}: {root} {what}. Give a folder that has a folder of images for every class.")
    tree = read_tree(root)
    splits = _find_splits(tree, root)
    class_names = _class_names(splits, root)
    decoder = Decoder()
    batches: dict[str, list[NDArray[np.uint8]]] = {}
    labels: dict[str, list[int]] = {}
    used: set[str] = set()
    for split, folder in splits.items():
        batches[split], labels[split] = [], []
        for label, name in enumerate(class_names):
            files = _image_files(folder.folders[name], root)
            batches[split].append(_decode(decoder, [root / file for file in files]))
            labels[split] += [label] * len(files)
            used.update(files)
    images = join(batches)
    left = [file for file in tree.files_below() if file not in used]
    loose = [file for file in left if PurePosixPath(file).suffix.lower() in _extensions()]
    return Source(
        **{split: Split(images=images[split], labels=torch.tensor(labels[split])) for split in splits},
        class_names=tuple(class_names),
        remarks=(
            *decoder.remarks(),
            *remark("images outside of class folders left out", loose),
            *remark("other files left out", (file for file in left if file not in loose)),
            *remark("hidden and system entries left out", tree.passed_over_below()),
        ),
    )


def _find_splits(tree: Folder, root: Path) -> dict[str, Folder]:
    """Return the folder of each split, which may be the root."""
    with_folders = [name for name, folder in tree.folders.items() if folder.folders]
    words = [name for name in tree.folders if role_of(name)]
    if len(words) == len(tree.folders) > 1 and not with_folders:
        raise DataError(
            f"{root} has the splits {', '.join(words)}, but no folder for every class in them. Sort their images into "
            "folders, one per class."
        )
    roles = {name: role for name in with_folders if (role := role_of(name))}
    # A class may be called `test tube`: longer names are those of splits only if all are.
    longer = {name: min(found) for name in tree.folders if len(found := roles_in(name)) == 1}
    if "train" in longer.values() and len(longer) == len(with_folders) == len(tree.folders):
        roles = longer
    if not roles:
        return {"train": tree}
    names = {role: [name for name in roles if roles[name] == role] for role in ROLES}
    for role, called in names.items():
        if len(called) > 1:
            raise DataError(f"{root} has {' and '.join(called)}, and each would be its {role} split. Keep one.")
    others = [name for name in tree.folders if name not in roles]
    if others:
        raise DataError(
            f"{root} has the splits {', '.join(roles)} and beside them {listed(others)}, which would be left out. "
            "Move them into a split, or away."
        )
    splits = {role: tree.folders[called[0]] for role, called in names.items() if called}
    if "train" not in splits:
        raise DataError(
            f"{root} has a {' and a '.join(splits)} split, but no {root / 'train'} with a folder for every class. "
            "Add it."
        )
    return splits


def _class_names(splits: Mapping[str, Folder], root: Path) -> list[str]:
    train = splits["train"]
    names = list(train.folders)
    if not names:
        raise DataError(
            f"{root / train.name} has no folders; looked for a folder of images for every class, either there or in "
            f"folders for splits, such as {', '.join(words[0] for words in SPLIT_WORDS.values())}."
        )
    for folder in splits.values():
        missing = [root / folder.name / name for name in names if name not in folder.folders]
        missing += [root / train.name / name for name in folder.folders if name not in train.folders]
        if missing:
            raise DataError(
                f"The classes of {root / train.name} and {root / folder.name} differ; missing: {listed(missing)}. "
                "Every split needs the same class folders."
            )
    return names


def _image_files(folder: Folder, root: Path) -> list[str]:
    """Return the images of a class."""
    files = folder.files_below()
    for file in files:
        if PurePosixPath(file).suffix.lower() in _OTHER_IMAGES:
            raise DataError(
                f"{root / file} is of a format that can't be read; allowed: {_COMMON} and what else Pillow reads. "
                "Convert it, for example to PNG, or move it away."
            )
    images = [file for file in files if _is_image(root / file)]
    if not images:
        raise DataError(
            f"{root / folder.name} has no images; looked for {_COMMON} and what else Pillow reads. Add images or "
            "remove the folder."
        )
    _check_depth(folder, images, root)
    return images


def _check_depth(folder: Folder, images: Iterable[str], root: Path) -> None:
    """Refuse a folder that has only folders of images, which may be the classes."""
    parents = {name.removeprefix(f"{folder.name}/").rpartition("/")[0].partition("/")[0] for name in images}
    if len(parents) > 1 and "" not in parents:
        raise DataError(
            f"{root / folder.name} would be one class, but its images are in {len(parents)} folders of its own "
            f"({listed(sorted(parents))}). If these are the classes, give their parent with --dataset folder:PATH, or "
            "call the folders above them train and test; if not, move the images up."
        )


def _decode(decoder: Decoder, files: Sequence[Path]) -> NDArray[np.uint8]:
    return decoder.decode(files, lambda index: str(files[index]))


def _is_image(path: Path) -> bool:
    """Return whether a file's name or, for an unknown ending, its content is that of an image."""
    if path.suffix.lower() in _extensions():
        return True
    try:
        with Image.open(path, formats=_SNIFFED):
            return True
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


@cache
def _extensions() -> frozenset[str]:
    known = Image.registered_extensions()
    return frozenset(end for end, kind in known.items() if kind in Image.OPEN and kind not in _NO_IMAGES)
