"""Data sets known by name: scikit-learn's digits, and torchvision's, which are downloaded if they are missing.

digits = read_digits()
cifar10 = read_torchvision("cifar10", data_root=None)
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import ArrayLike

from dim_ray.core.data.splits import Source, Split
from dim_ray.errors import DataError, one_line

__all__ = ["DEFAULT_DATA_ROOT", "read_digits", "read_torchvision"]

DEFAULT_DATA_ROOT = "~/.cache/dim_ray"

_DIGITS_MAXIMUM = 16  # scikit-learn's digits count the dark pixels of 4x4 blocks
_DOWNLOAD_TIMEOUT_SECONDS = 15.0
_DIGIT_NAMES = tuple(map(str, range(10)))


def read_digits() -> Source:
    """Read scikit-learn's digits: 1,797 grey scans of 8x8 pixels, without a test split."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    scaled = np.rint(images.reshape(-1, 1, 8, 8) * (255 / _DIGITS_MAXIMUM)).astype(np.uint8)
    return Source(train=_split(scaled, labels), class_names=_DIGIT_NAMES)


def read_torchvision(name: str, data_root: str | None, *, may_download: bool = True) -> Source:
    """Read mnist, fashion_mnist, svhn, cifar10 or cifar100 with torchvision, and download missing files to `data_root`.

    Raises:
        DataError: The files are missing and can't be downloaded, or they are damaged.
    """
    from torchvision import datasets

    root = Path(os.path.expanduser(data_root or DEFAULT_DATA_ROOT))
    read = functools.partial(_open, name, root, may_download)
    if name in ("mnist", "fashion_mnist"):
        make = datasets.MNIST if name == "mnist" else datasets.FashionMNIST
        train, test = (read(make, train=is_train) for is_train in (True, False))
        return Source(
            train=_split(train.data.unsqueeze(1), train.targets),
            test=_split(test.data.unsqueeze(1), test.targets),
            class_names=_DIGIT_NAMES if name == "mnist" else tuple(train.classes),
        )
    if name == "svhn":
        train, test = (read(datasets.SVHN, split=split) for split in ("train", "test"))
        return Source(
            train=_split(train.data, train.labels), test=_split(test.data, test.labels), class_names=_DIGIT_NAMES
        )
    make = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    train, test = (read(make, train=is_train) for is_train in (True, False))
    return Source(
        train=_split(train.data.transpose(0, 3, 1, 2), train.targets),
        test=_split(test.data.transpose(0, 3, 1, 2), test.targets),
        class_names=tuple(train.classes),
    )


def _open(name: str, root: Path, may_download: bool, make: Callable[..., Any], **split: Any) -> Any:
    try:
        return make(root, download=False, **split)
    except (RuntimeError, OSError, ValueError, AssertionError, IndexError, KeyError) as error:
        if not (isinstance(error, RuntimeError) and "not found" in str(error)):  # absent, or of a wrong checksum
            raise DataError(
                f"The files of {name} in {root} can't be read ({one_line(error)}). Where they are damaged, delete "
                "them, so that they are downloaded again, or give another folder with --data-root."
            ) from error
        if not may_download:
            raise DataError(f"{name} isn't in {root}; give the folder that has torchvision's files of it.") from error
    try:
        root.mkdir(parents=True, exist_ok=True)
        # Several trials on one node may need the files at once.
        with FileLock(root / f".{name}.lock"), _socket_timeout(_DOWNLOAD_TIMEOUT_SECONDS):
            return make(root, download=True, **split)
    except (RuntimeError, OSError, http.client.HTTPException) as error:
        raise DataError(
            f"{name} isn't in {root} and can't be downloaded ({one_line(error)}). Give the folder that has "
            f"torchvision's files of {name} with --data-root, or a copy in Parquet with --dataset parquet:PATH."
        ) from error


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Bound torchvision's downloads, which would hang for minutes behind a silent firewall."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _split(images: ArrayLike, labels: ArrayLike) -> Split:
    # Copied, because the libraries' arrays may be read-only, or views with strides.
    return Split(
        images=torch.from_numpy(np.array(np.asarray(images), dtype=np.uint8, order="C")),
        labels=torch.from_numpy(np.array(np.asarray(labels), dtype=np.int64)),
    )
