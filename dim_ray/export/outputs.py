"""Write a folder on a disk, whole or not at all.

write_folder(Path("digits_10"), {"images.npz": data})
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from dim_ray.errors import StorageError, UsageError

__all__ = ["check_absent", "write_folder"]


def check_absent(folder: Path) -> None:
    """Raise a `UsageError` if the folder exists and isn't empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already; give a new or empty folder.")


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make a new or empty folder appear with all files, which have paths with parts joined by "/", at once.

    Raises:
        UsageError: The folder exists and isn't empty.
        StorageError: The folder can't be written.
    """
    check_absent(folder)
    ours = folder.absolute().parent / f".{folder.name}.{uuid.uuid4().hex}"
    try:
        ours.mkdir(parents=True)
        try:
            for name, data in files.items():
                path = ours / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(data)
            os.rename(ours, folder)
        finally:
            shutil.rmtree(ours, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"can't write {folder}: {error.strerror or error}; choose another place.") from error
