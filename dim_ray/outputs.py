"""Files that a person asked for, on a disk: a folder whole or not at all, or files whole in the place of others.

write_folder(Path("digits_10"), {"images.npz": data})
replace_files(Path("dim_report"), {"report.html": data})
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from dim_ray.errors import StorageError, UsageError

__all__ = ["check_absent", "replace_files", "write_folder"]


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


def replace_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes files into a folder, new or not, each whole and in the place of one that has its name.

    Args:
        folder: What else is in it stays.
        files: Contents by path, whose parts are joined by "/", in the order in which they appear.

    Raises:
        StorageError: One can't be written.
    """
    try:
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            ours = path.with_name(f".{path.name}.{os.getpid()}")
            try:
                ours.write_bytes(data)
                ours.replace(path)
            finally:
                ours.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"can't write {folder}: {error.strerror or error}; choose another place.") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
