"""The Parquet files of a data set, on a local disk or in object storage.

files = find_parquet_files("s3://bucket/svhn#cropped_digits")
files.layout.splits["train"]
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import yaml
from pyarrow import fs

from dim_ray import hub
from dim_ray.core.data.hub_layout import LOOKED_FOR, Layout, plan_layout
from dim_ray.core.data.tree import is_passed_over, read_tree, remark
from dim_ray.errors import DataError, listed, one_line

__all__ = ["ParquetFiles", "find_parquet_files"]

_METADATA = re.compile(r"\A\ufeff?---\r?\n(.*?)\r?\n---\s*?$", re.DOTALL | re.MULTILINE)
_SAVED_TO_DISK = ("dataset_dict.json", "state.json")
_FETCHED = ("*.parquet", "README.md")
_ONE_OF = re.compile(r".*-of-0*([2-9]|[1-9]\d+)\b.*")


@dataclass(frozen=True, kw_only=True)
class ParquetFiles:
    """The files of a data set."""

    filesystem: fs.FileSystem
    root: str
    """What `layout`'s names are relative to; ends with a slash, or is empty."""
    scheme: str
    """Prefix of a file's name in messages: empty for local files, otherwise s3:// and the like."""
    layout: Layout


def find_parquet_files(path: str) -> ParquetFiles:
    """Find the files of a data set: a file or a folder, local (~ is expanded), on the Hub or a URI of pyarrow.fs.

    A `#` and the name of a configuration may follow.

    Raises:
        DataError: There are no files or they can't be listed, or see `plan_layout`.
        UsageError, StorageError: See `dim_ray.hub.download`.
    """
    path, subset = _split(path)
    filesystem, root, scheme = _resolve(path)
    root = root if scheme else _newest_snapshot(root)
    where = f"{scheme}{root}"
    try:
        info = filesystem.get_file_info(root)
        if info.type == fs.FileType.NotFound:
            raise DataError(
                f"parquet:{path}: there is no file or folder {where}. Give a Parquet file, or a folder with Parquet "
                f"files; looked for {LOOKED_FOR}."
            )
        if info.type == fs.FileType.File:
            remarks = ["one of several shards"] if _ONE_OF.fullmatch(root) else []
            layout = Layout(splits={"train": [root]}, remarks=remarks)
            return ParquetFiles(filesystem=filesystem, root="", scheme=scheme, layout=layout)
        files, hidden = _list(filesystem, root)
        card = _card(filesystem, root, where) if "README.md" in files else {}
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"parquet:{path} can't be listed ({error}). Check the path and the access rights.") from error
    names = [name for name in files if name.lower().endswith(".parquet")]
    others = [name for name in files if name != "README.md" and not name.lower().endswith(".parquet")]
    if not names:
        raise DataError(f"{where} has no Parquet files; looked for {LOOKED_FOR}.{_instead(others)}")
    layout = plan_layout(names, card, subset=subset, where=where)
    layout.remarks.extend(remark("other files left out", others) + remark("hidden and system entries left out", hidden))
    return ParquetFiles(filesystem=filesystem, root=f"{root.rstrip('/')}/", scheme=scheme, layout=layout)


def _split(path: str) -> tuple[str, str | None]:
    """Return a path, and the configuration behind its `#` unless that is part of a file's name."""
    before, mark, subset = path.rpartition("#")
    is_subset = mark and not ("://" not in path and Path(path).expanduser().exists())
    return (before, subset) if is_subset else (path, None)


def _resolve(path: str) -> tuple[fs.FileSystem, str, str]:
    if path.startswith(hub.SCHEME):
        path = str(hub.download(path, "dataset", _FETCHED))
    if "://" not in path:
        return fs.LocalFileSystem(), str(Path(os.path.expanduser(path))), ""
    try:
        filesystem, root = fs.FileSystem.from_uri(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"parquet:{path} can't be opened ({error}). Give a local path or a URI that starts with s3://, gs://, "
            "hf:// or file://."
        ) from error
    scheme = path.partition("://")[0]
    return filesystem, root, "" if scheme == "file" else f"{scheme}://"


def _newest_snapshot(root: str) -> str:
    """Return the folder of the newest version where the Hub's cache has several of a data set, else the same folder."""
    reference = Path(root) / "refs" / "main"
    if not reference.is_file():
        return root
    snapshot = Path(root) / "snapshots" / reference.read_text().strip()
    return str(snapshot) if snapshot.is_dir() else root


def _list(filesystem: fs.FileSystem, root: str) -> tuple[list[str], list[str]]:
    """Return the names of all files and of what is hidden, relative to `root`."""
    if isinstance(filesystem, fs.LocalFileSystem):
        tree = read_tree(Path(root))
        return tree.files_below(), tree.passed_over_below()
    entries = filesystem.get_file_info(fs.FileSelector(root, recursive=True))
    paths = sorted(entry.path for entry in entries if entry.type == fs.FileType.File)
    names = [str(PurePosixPath(path).relative_to(root)) for path in paths]
    hidden = [name for name in names if _is_hidden(name)]
    return sorted({*names} - {*hidden}), hidden


def _is_hidden(name: str) -> bool:
    *folders, own = name.split("/")
    return is_passed_over(own, is_folder=False) or any(is_passed_over(folder, is_folder=True) for folder in folders)


def _card(filesystem: fs.FileSystem, root: str, where: str) -> dict[str, Any]:
    """Return the metadata at the top of README.md."""
    with filesystem.open_input_file(f"{root.rstrip('/')}/README.md") as file:
        text = file.read().decode("utf-8", errors="replace")
    match = _METADATA.search(text)
    try:
        card = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError as error:
        raise DataError(
            f"The metadata of {where}/README.md can't be read ({one_line(error)}). Correct or remove it."
        ) from error
    return card if isinstance(card, dict) else {}


def _instead(others: list[str]) -> str:
    """Return a hint by what there is instead."""
    if any(PurePosixPath(name).name in _SAVED_TO_DISK for name in others):
        return " It was written by datasets' save_to_disk: write it with to_parquet, one file per split."
    return f" There are {len(others):,} other files: {listed(others, most=3)}." if others else ""
