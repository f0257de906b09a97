"""The Parquet files of each split of a data set, by name, on a local disk or in object storage.

files = find_parquet_files("s3://bucket/cifar10")
files.splits["train"]
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from dim_ray.errors import DataError

__all__ = ["ParquetFiles", "find_parquet_files"]

_SPLIT_PREFIXES = {"train": "train", "val": "validation", "test": "test"}
_SHARD = re.compile(r"(.*)-\d+-of-(\d+)\.parquet")
_LOOKED_FOR = "train*.parquet, test*.parquet and validation*.parquet, there and in data below it"


@dataclass(frozen=True, kw_only=True)
class ParquetFiles:
    """The files of a data set."""

    filesystem: fs.FileSystem
    scheme: str
    """Prefix of a file's name in messages: empty for local files, otherwise s3:// and the like."""
    splits: dict[str, list[str]]
    """Names of the files of `train`, and of `validation` and `test` if there are any."""


def find_parquet_files(path: str) -> ParquetFiles:
    """Find the files of a data set: a file or a folder, local (~ is expanded) or a URI that pyarrow.fs knows.

    Raises:
        DataError: There are no files, none to train on, or a shard is missing.
    """
    filesystem, root, scheme = _resolve(path)
    try:
        info = filesystem.get_file_info(root)
        if info.type == fs.FileType.NotFound:
            raise DataError(
                f"parquet:{path}: there is no file or folder {scheme}{root}. Give a Parquet file, or a folder with "
                f"{_LOOKED_FOR}."
            )
        if info.type == fs.FileType.File:
            return ParquetFiles(filesystem=filesystem, scheme=scheme, splits={"train": [root]})
        names = _parquet_names(filesystem, root) or _parquet_names(filesystem, posixpath.join(root, "data"))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"parquet:{path} can't be listed ({error}). Check the path and the access rights.") from error
    if not names:
        raise DataError(f"{scheme}{root} has no Parquet files; looked for {_LOOKED_FOR}.")
    return ParquetFiles(filesystem=filesystem, scheme=scheme, splits=_deal(names, f"{scheme}{root}"))


def _resolve(path: str) -> tuple[fs.FileSystem, str, str]:
    if "://" not in path:
        return fs.LocalFileSystem(), str(Path(path).expanduser()), ""
    try:
        filesystem, root = fs.FileSystem.from_uri(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"parquet:{path} can't be opened ({error}). Give a local path or a URI that starts with s3://, gs:// or "
            "file://."
        ) from error
    scheme = path.partition("://")[0]
    return filesystem, root, "" if scheme == "file" else f"{scheme}://"


def _parquet_names(filesystem: fs.FileSystem, folder: str) -> list[str]:
    entries = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    return sorted(
        entry.path
        for entry in entries
        if entry.type == fs.FileType.File
        and entry.base_name.endswith(".parquet")
        and not entry.base_name.startswith((".", "_"))
    )


def _deal(names: list[str], where: str) -> dict[str, list[str]]:
    splits: dict[str, list[str]] = {}
    for name in names:
        for prefix, split in _SPLIT_PREFIXES.items():
            if posixpath.basename(name).startswith(prefix):
                splits.setdefault(split, []).append(name)
    if not splits and len(names) == 1:
        splits["train"] = names
    if "train" not in splits:
        found = ", ".join(map(posixpath.basename, names))
        raise DataError(f"{where} has no training split among {found}; looked for {_LOOKED_FOR}. Rename the files.")
    _check_shards(names, where)
    return {split: splits[split] for split in _SPLIT_PREFIXES.values() if split in splits}


def _check_shards(names: Iterable[str], where: str) -> None:
    matches = [match for name in names if (match := _SHARD.fullmatch(posixpath.basename(name)))]
    for (stem, total), found in Counter(match.groups() for match in matches).items():
        if found != int(total):
            raise DataError(
                f"{where} has {found} of the {int(total)} files {stem}-*-of-{total}.parquet. Add the missing ones."
            )
