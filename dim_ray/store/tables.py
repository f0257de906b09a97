"""Read a table's rows from its files, each row once, while others write and compact.

    rows = read_rows(open_root("./dim_storage"), EVALUATION_TABLE, {"ipc": [10, 50]}, columns=["seed", "accuracy"])

A row may be in several files: its own, one from a retry, and a pack. Of rows with the same id the latest `created_at`
counts. Compaction writes a pack before it deletes what went into it, so a reader that misses a listed file lists again.
As a listing isn't of one moment, it lists until two listings in succession show no new pack.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import reduce
from typing import Any, TypeVar
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dim_ray.errors import StorageError, UsageError, nearest, one_line
from dim_ray.store.files.filesystem import Root
from dim_ray.store.row_files import num_packed, parse, row_of
from dim_ray.store.schema import Table

__all__ = ["RowFile", "allowed_values", "at_once", "checked", "list_files", "newest", "read_rows", "stored_ids"]

_REMOTE_THREADS = 16
_MAX_LISTINGS = 100
_MOST_TEXT_BYTES = 2**30  # a column of strings can't be sorted above 2 GiB
_AGE = ("created_at", "id")

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class RowFile:
    """A file with rows."""

    path: str
    """Path in the root's file system."""
    place: tuple[Any, ...]
    """Values of the partition columns, in the table's order."""
    modified: datetime | None = field(compare=False, default=None)
    """When it was written, by the storage's clock."""

    @property
    def name(self) -> str:
        """File name without its folder."""
        return self.path.rpartition("/")[2]

    @property
    def is_pack(self) -> bool:
        """Whether it has many rows and is never written again."""
        return num_packed(self.name) is not None


def list_files(root: Root, table: Table) -> list[RowFile]:
    """Return a table's files, packs first; raise a StorageError if a file lies where no rows belong."""
    places: dict[str, tuple[Any, ...]] = {}
    files = []
    for info in root.children(table.name, recursive=True):
        path = info.path
        if path.endswith(".parquet") and info.is_file:
            folder = path.rpartition("/")[0]
            if folder not in places:
                places[folder] = _place(root, table, path)
            files.append(RowFile(path=path, place=places[folder], modified=info.mtime))
    return sorted(files, key=lambda file: not file.is_pack)


def read_rows(root: Root, table: Table, filters: Mapping[str, Any], columns: Sequence[str] | None = None) -> pa.Table:
    """Return rows, oldest first, with all or some columns.

    A filter is a value or a list of values by column; None means null.

    Raises:
        UsageError: There is no such column, or a filter's value has another type than its column.
        StorageError: A file is damaged, of a newer version, or can't be read; it is named.
    """
    allowed = {name: allowed_values(table, name, value) for name, value in filters.items()}
    wanted = list(columns) if columns is not None else table.schema.names
    needed = {*wanted, *allowed, *_AGE, *table.partitions}
    rows = newest(table, _read_all(root, table, allowed, [name for name in table.schema.names if name in needed]))
    fits = [pc.is_in(rows[name], value_set=values) for name, values in allowed.items()]
    if fits and not pc.all(chosen := reduce(pc.and_, fits)).as_py():
        rows = rows.filter(chosen)
    return rows.sort_by([(name, "ascending") for name in _AGE]).select(wanted)


def stored_ids(root: Root, table: Table, filters: Mapping[str, Any]) -> set[str]:
    """Return the ids of rows, opening only packs; filter by partition columns and id, otherwise as `read_rows`."""
    allowed = {name: allowed_values(table, name, value) for name, value in filters.items()}
    ids = set(_read_all(root, table, allowed, ["id", *table.partitions])["id"].to_pylist())
    return ids & set(allowed["id"].to_pylist()) if "id" in allowed else ids


def at_once(root: Root, call: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """Call a function for each item, on an object store for several at once."""
    if root.is_local:  # parsing holds the interpreter and takes as long as reading, so threads wouldn't help
        return [call(item) for item in items]
    with ThreadPoolExecutor(_REMOTE_THREADS) as threads:
        return list(threads.map(call, items))


def newest(table: Table, rows: pa.Table) -> pa.Table:
    """Return each row once, as it was written last; of several with the same time the last one."""
    if pc.count_distinct(rows["id"]).as_py() == len(rows):
        return rows
    by_age = pc.sort_indices(rows, sort_keys=[("created_at", "ascending")])  # stable
    keys = [*table.partitions, "id"]
    ranked = rows.select(keys).take(by_age).append_column("rank", pa.array(np.arange(len(rows))))
    last = ranked.group_by(keys).aggregate([("rank", "max")])["rank_max"]
    return rows.take(by_age.take(last))


def checked(table: Table, file: RowFile, rows: pa.Table) -> pa.Table:
    """Return a file's rows with the partition columns added; raise a StorageError if a needed value is null."""
    for name, value in zip(table.partitions, file.place, strict=True):
        rows = rows.append_column(name, pa.repeat(pa.scalar(value, table.schema.field(name).type), len(rows)))
    schema = pa.schema([field for field in table.schema if field.name in rows.column_names])
    try:
        return rows.select(schema.names).cast(schema)
    except (pa.ArrowException, ValueError) as error:
        raise StorageError(f"{file.path} has rows that {table.name} can't have: {one_line(error)}.") from error


def allowed_values(table: Table, name: str, value: Any) -> pa.Array:
    """Return a filter's values with the type of its column; raise a UsageError if there is none, or it's another."""
    if name not in table.schema.names:
        raise UsageError(f"{table.name} has no column {name!r}; {nearest(name, table.schema.names)}")
    values = list(value) if isinstance(value, list | tuple | set | frozenset | range) else [value]
    values = [unicodedata.normalize("NFC", own) if isinstance(own, str) else own for own in values]
    kind = table.schema.field(name).type
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"the filter {name} is {value!r}; allowed: values of type {kind}, one or a list.") from error


def _read_all(root: Root, table: Table, allowed: Mapping[str, pa.Array], columns: Sequence[str]) -> pa.Table:
    """Return the rows of every file, listing until no new pack appears."""
    read: dict[RowFile, pa.Table] = {}
    packs: set[RowFile] | None = None
    for _ in range(_MAX_LISTINGS):
        files = _chosen(table, list_files(root, table), allowed)
        there = {file for file in files if file.is_pack}
        missing = [file for file in files if file not in read]
        found = _read_files(root, table, missing, columns)
        read |= found
        if len(found) == len(missing) and packs is not None and there <= packs:
            return _join(table, read, columns)
        packs = there if packs is None else packs | there
    raise StorageError(f"files of {root.uri_of(table.name)} keep vanishing while they are read; try again later.")


def _read_files(root: Root, table: Table, files: Sequence[RowFile], columns: Sequence[str]) -> dict[RowFile, pa.Table]:
    """Return the rows of the files that still exist."""

    def read(file: RowFile) -> pa.Table | None:
        if not file.is_pack and {*columns} <= {"id", *table.partitions}:
            return pa.table({"id": [row_of(file.name)]})
        data = root.read(root.key_of(file.path))
        return None if data is None else parse(table, file.path, data, columns)

    parts = at_once(root, read, files)
    return {file: part for file, part in zip(files, parts, strict=True) if part is not None}


def _join(table: Table, read: Mapping[RowFile, pa.Table], columns: Sequence[str]) -> pa.Table:
    """Return all rows, with the partition columns, those of packs first: of rows of the same time they are older."""
    files = sorted(read, key=lambda file: not file.is_pack)
    counts = [len(read[file]) for file in files]
    schema = pa.schema([table.schema.field(name) for name in columns])
    inside = pa.schema([field for field in table.file_schema if field.name in columns])
    rows = pa.concat_tables([inside.empty_table(), *(read[file] for file in files)])
    if rows.nbytes > _MOST_TEXT_BYTES:
        schema = pa.schema([f.with_type(pa.large_string()) if pa.types.is_string(f.type) else f for f in schema])
    for place, name in enumerate(table.partitions):
        values = pa.array([file.place[place] for file in files], schema.field(name).type)
        rows = rows.append_column(name, values.take(pa.array(np.repeat(np.arange(len(files)), counts))))
    try:
        return rows.select(schema.names).cast(schema)
    except (pa.ArrowException, ValueError):
        for file in files:
            checked(table, file, read[file])  # says which file it was
        raise


def _chosen(table: Table, files: Iterable[RowFile], allowed: Mapping[str, pa.Array]) -> list[RowFile]:
    """Return the files that may have rows that are asked for, by their folders and, of single rows, their names."""
    sets = {name: set(values.to_pylist()) for name, values in allowed.items()}
    wanted = [(index, sets[name]) for index, name in enumerate(table.partitions) if name in sets]
    chosen = [file for file in files if all(file.place[index] in values for index, values in wanted)]
    if "id" not in sets:
        return chosen
    return [file for file in chosen if file.is_pack or row_of(file.name) in sets["id"]]


def _place(root: Root, table: Table, path: str) -> tuple[Any, ...]:
    """Return the values of the partition columns, from the names of a file's folders."""
    relative = path[len(root.path_of(table.name)) + 1 :]
    pairs = [folder.partition("=") for folder in relative.split("/")[:-1]]
    if tuple(name for name, _, _ in pairs) != table.partitions:
        expected = "/".join(f"{name}=..." for name in table.partitions)
        raise StorageError(f"{path} isn't where rows of {table.name} belong ({table.name}/{expected}/); move it away.")
    try:
        return tuple(
            int(value) if pa.types.is_integer(table.schema.field(name).type) else unquote(value)
            for name, _, value in pairs
        )
    except ValueError as error:
        raise StorageError(f"{path} isn't where rows of {table.name} belong: {error}; move it away.") from error
