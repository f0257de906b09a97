"""The files below a folder of somebody's data: links are followed, hidden and system entries are passed over.

root = read_tree(Path("flowers"))
root.folders["train"].files_below()
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dim_ray.errors import DataError, listed

__all__ = ["Folder", "is_passed_over", "read_tree", "remark"]

# Hidden entries and folders with two underscores, as on the Hub, and what systems leave behind.
_NO_FILE = re.compile(r"\..+|(eh)?thumbs(_vista)?\.db|desktop\.ini|icon\r", re.IGNORECASE | re.DOTALL)
_NO_FOLDER = re.compile(
    r"\..+|__.*|@eadir|#recycle|#snapshot|\$recycle\.bin|lost\+found|system volume information",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder and everything below it. Names are relative to the root, with `/` between their parts."""

    name: str
    """Name of this folder; empty for the root."""
    files: list[str] = field(default_factory=list)
    """Names of the files directly in it, sorted."""
    folders: dict[str, Folder] = field(default_factory=dict)
    """The folders directly in it, by the last part of their names, sorted."""
    passed_over: list[str] = field(default_factory=list)
    """Hidden and system entries directly in it."""

    def everything(self) -> Iterator[Folder]:
        """Iterate over this folder and all below it."""
        yield self
        for folder in self.folders.values():
            yield from folder.everything()

    def files_below(self) -> list[str]:
        """Return the names of the files in it and below it, sorted."""
        return sorted(name for folder in self.everything() for name in folder.files)

    def passed_over_below(self) -> list[str]:
        """Return the hidden and system entries in it and below it."""
        return [name for folder in self.everything() for name in folder.passed_over]


def is_passed_over(name: str, *, is_folder: bool) -> bool:
    """Return whether an entry of this name is hidden or a system's, such as `@eaDir` and `__MACOSX`."""
    return (_NO_FOLDER if is_folder else _NO_FILE).fullmatch(name) is not None


def remark(what: str, names: Iterable[str]) -> list[str]:
    """Return a remark for `Source.remarks` about entries, with their number and the first names; none without them."""
    every = list(names)
    return [f"{what}: {len(every):,} ({listed(every, most=3)})"] if every else []


def read_tree(root: Path) -> Folder:
    """List a local folder with all below it; raise a DataError if a folder can't be listed or a link is broken."""
    return _walk(root, "", (os.path.realpath(root),))


def _walk(path: Path, name: str, above: tuple[str, ...]) -> Folder:
    folder = Folder(name=name)
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{path} can't be listed ({error.strerror}). Check the path and the access rights.") from error
    for entry in entries:
        own = f"{name}/{entry.name}" if name else entry.name
        if is_passed_over(entry.name, is_folder=entry.is_dir()):
            folder.passed_over.append(own)
        elif entry.is_dir():
            real = os.path.realpath(entry.path)
            if real in above:
                raise DataError(f"{entry.path} is a link to {real}, which contains it. Remove the link.")
            folder.folders[entry.name] = _walk(Path(entry.path), own, (*above, real))
        elif entry.is_file():
            folder.files.append(own)
        elif entry.is_symlink():
            raise DataError(
                f"{entry.path} is a link to {os.readlink(entry.path)}, where there is nothing. "
                "Restore that or remove the link."
            )
        else:  # a socket or a pipe
            folder.passed_over.append(own)
    return folder
