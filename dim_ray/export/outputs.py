"""A folder that a person asked for, on a disk: whole or not at all.

write_folder(Path("digits_10"), {"images.npz": data})
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from dim_ray.errors import StorageError, UsageError

__all__ = ["check_absent", "write_folder"]


def check_absent(folder: Path) -> None:
    """Raises a `UsageError` where there is something already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already; give a folder that isn't, or an empty one.")


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Makes a folder appear with all of its files at once.

    Args:
        folder: One that is not there, or empty.
        files: Contents by path, whose parts are joined by "/".

    Raises:
        UsageError: There is something already.
        StorageError: It can't be written.
    """
    check_absent(folder)
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        ours = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.absolute().parent))
        try:
            for name, data in files.items():
                path = ours / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(data)
            ours.chmod(0o777 & ~_umask())
            os.rename(ours, folder)
        finally:
            shutil.rmtree(ours, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"can't write {folder}: {error.strerror or error}; choose another place.") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
