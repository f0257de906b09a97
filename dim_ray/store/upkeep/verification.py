"""Find damaged, foreign, misplaced and missing files in a storage, changing nothing.

for problem in verify("./dim_storage").problems:
    print(problem)
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs as pafs

from dim_ray.errors import StorageError, listed
from dim_ray.progress.stages import counted
from dim_ray.store.artifacts import DATASETS, KINDS, ArtifactStore
from dim_ray.store.files.filesystem import open_root
from dim_ray.store.row_files import num_packed, pack_digest, parse, row_of
from dim_ray.store.schema import TABLES, Table
from dim_ray.store.tables import RowFile, checked, list_files

__all__ = ["Verification", "verify"]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What a verification found."""

    num_files: int
    """Files with rows."""
    num_rows: int
    """Rows in these files; a row in two files counts twice."""
    num_artifacts: int
    problems: tuple[str, ...]
    """A sentence per problem, which names the file or artefact."""


def verify(root: str) -> Verification:
    """Read a whole storage and check that it's sound.

    Files of rows must be readable, have good checksums and hold the rows that their place and name say; an artefact's
    files must match its card, and data sets' cards their digests; and every generator that a row names must exist.
    """
    opened, artifacts = open_root(root), ArtifactStore(root)
    problems: list[str] = []
    wanted: Counter[str] = Counter()
    num_files = num_rows = 0
    for table in TABLES:
        try:
            files = list_files(opened, table)
        except StorageError as error:
            problems.append(str(error))
            continue
        for file in files:
            num_files += 1
            try:
                data = opened.read(opened.key_of(file.path))
                if data is None:  # compacted meanwhile
                    continue
                rows = _rows(table, file, data)
            except StorageError as error:
                problems.append(str(error))
                continue
            num_rows += len(rows)
            wanted.update(name for name in rows["generator"].to_pylist() if name is not None)
    folders = {
        kind: [info.base_name for info in opened.children(kind) if info.type == pafs.FileType.Directory]
        for kind in (*KINDS, DATASETS)
    }
    for kind, names in folders.items():
        for name in names:
            try:
                artifacts.read(kind, name)
            except StorageError as error:
                problems.append(str(error))
    problems += [
        f"generators/{name} is missing in {opened.uri}, and {counted(count, 'row')} name it. Bring back a copy; "
        "the rows stay what they are."
        for name, count in sorted(wanted.items())
        if name not in folders["generators"]
    ]
    return Verification(
        num_files=num_files,
        num_rows=num_rows,
        num_artifacts=sum(len(folders[kind]) for kind in KINDS),
        problems=tuple(problems),
    )


def _rows(table: Table, file: RowFile, data: bytes) -> pa.Table:
    digest = pack_digest(file.name)
    if digest is not None and hashlib.sha256(data).hexdigest()[: len(digest)] != digest:
        raise StorageError(f"{file.path} was altered: its SHA-256 isn't the one in its name. Bring back a copy.")
    rows = parse(table, file.path, data)
    checked(table, file, rows)
    count = num_packed(file.name)
    ids = rows["id"].to_pylist()
    if count is None and (len(ids) != 1 or ids[0] != row_of(file.name)):
        raise StorageError(f"{file.path} doesn't hold the row of its name, but {listed(ids) or 'none'}.")
    if count is not None and (len(ids) != count or len(set(ids)) != count):
        raise StorageError(f"{file.path} has {len(ids)} rows, {len(set(ids))} of them different, and not {count}.")
    return rows
