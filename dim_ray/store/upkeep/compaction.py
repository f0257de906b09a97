"""Merge small files into packs, partition by partition, while others read and write.

    compact("./dim_storage")  # Compaction(num_files_before=2000, num_files_after=3, num_rows=2000)

A file is deleted only after the pack with its rows was read back. A crash therefore leaves rows twice, which readers
see once and the next compaction cleans up. Two processes may compact at once.

The file of a single row may be written again at any moment. On a disk it's renamed to a name that no writer uses, then
compared with what was packed, and kept if it differs. An object store can't rename, so there the file is read again
just before it's deleted, and only rows older than an hour are packed, since retries come soon.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from dim_ray.progress.notices import log
from dim_ray.store.files.faults import PAUSES_SECONDS
from dim_ray.store.files.filesystem import Root, open_root
from dim_ray.store.row_files import ROWS_PER_PACK, aside_name, is_aside, num_packed, parse, write_pack
from dim_ray.store.schema import TABLES, Table
from dim_ray.store.tables import RowFile, at_once, checked, list_files, newest

__all__ = ["Compaction", "compact"]

_SETTLED_SECONDS = 3600.0  # on an object store


@dataclass(frozen=True, kw_only=True)
class Compaction:
    """What a compaction did."""

    num_files_before: int
    num_files_after: int
    num_rows: int
    """Rows in the new packs."""


def compact(
    root: str,
    *,
    rows_per_pack: int = ROWS_PER_PACK,
    most_files: int | None = None,
    settled_seconds: float | None = None,
) -> Compaction:
    """Merge the small files of every partition to files of about `rows_per_pack` rows.

    With `most_files`, only of partitions with more small files of that age than these.

    Rows are packed at an age of `settled_seconds`, by default any on a disk and an hour on an object store.

    Raises:
        StorageError: A file is damaged, of a newer version, or can't be read or written. Nothing was lost.
    """
    opened = open_root(root, PAUSES_SECONDS)
    if settled_seconds is None:
        settled_seconds = 0.0 if opened.is_local else _SETTLED_SECONDS
    latest = datetime.now(UTC) - timedelta(seconds=settled_seconds) if settled_seconds else None
    num_before = num_after = num_rows = 0
    for table in TABLES:
        files = list_files(opened, table)
        num_before += len(files)
        packed = [_pack(opened, table, batch, latest) for batch in _batches(files, rows_per_pack, most_files, latest)]
        num_rows += sum(packed)
        num_after += len(list_files(opened, table)) if packed else len(files)
    return Compaction(num_files_before=num_before, num_files_after=num_after, num_rows=num_rows)


def _batches(
    files: Iterable[RowFile], rows_per_pack: int, most_files: int | None, latest: datetime | None
) -> Iterator[list[RowFile]]:
    """Yield at least two files of one partition that together make about one pack."""
    places: dict[tuple[object, ...], list[RowFile]] = {}
    for file in files:
        if (num_packed(file.name) or 1) < rows_per_pack:
            places.setdefault(file.place, []).append(file)
    for small in places.values():
        settled = [file for file in small if latest is None or file.modified is None or file.modified < latest]
        if most_files is not None:
            if len(settled) <= most_files:
                continue
            log.warning("%d small files of %s are merged.", len(settled), settled[0].path.rpartition("/")[0])
        batch, count = [], 0
        for file in small:
            batch.append(file)
            count += num_packed(file.name) or 1
            if count >= rows_per_pack:
                yield batch
                batch, count = [], 0
        if len(batch) > 1:
            yield batch


def _pack(root: Root, table: Table, batch: Sequence[RowFile], latest: datetime | None) -> int:
    """Replace files by one pack, and return its number of rows."""

    def read(file: RowFile) -> tuple[RowFile, str, pa.Table] | None:
        data = root.read(root.key_of(file.path))
        if data is None:  # another compaction was faster
            return None
        return file, hashlib.sha256(data).hexdigest(), checked(table, file, parse(table, file.path, data))

    def delete(file: RowFile, digest: str) -> None:
        root.attempt("delete", root.key_of(file.path), lambda: _delete(root, file, digest))

    packed: list[tuple[RowFile, str]] = []
    parts: list[pa.Table] = []
    for file, digest, rows in filter(None, at_once(root, read, batch)):
        if latest is None or file.is_pack or pc.max(rows["created_at"]).as_py() < latest:
            packed.append((file, digest))
            parts.append(rows)
    if len(packed) < 2:
        return 0
    place = dict(zip(table.partitions, packed[0][0].place, strict=True))
    rows = newest(table, pa.concat_tables(parts)).sort_by([("created_at", "ascending"), ("id", "ascending")])
    pack = root.path_of(write_pack(root, table, place, rows))
    at_once(root, lambda own: delete(*own), [own for own in packed if own[0].path != pack])
    return len(rows)


def _delete(root: Root, file: RowFile, digest: str) -> None:
    """Delete a file whose rows are in a pack, unless it was written again."""
    path = file.path
    try:
        if not file.is_pack and not is_aside(file.name):
            if root.is_local:
                path = f"{path.removesuffix(file.name)}{aside_name(file.name)}"
                root.filesystem.move(file.path, path)
            with root.filesystem.open_input_stream(path) as stream:
                if hashlib.sha256(stream.read()).hexdigest() != digest:
                    return  # it was written again; readers find its row under the new name
        root.filesystem.delete_file(path)
    except FileNotFoundError:
        return  # another compaction was faster
