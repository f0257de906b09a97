"""The rows of a table out of its files, each row once, while others append and compact.

    rows = read_rows(open_root("./dim_storage"), EVALUATION_TABLE, {"ipc": [10, 50]}, columns=["seed", "accuracy"])

A row may be in several files: one of its own, one where it was written again, and one with many rows that compaction
made. Of the same id the row with the latest `created_at` counts.

Compaction writes a pack before it deletes what went into it. So a reader that finds a listed file gone lists again;
and as a listing isn't of one moment, it lists until two listings in a row know of no other pack.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dim_ray.errors import StorageError, UsageError, nearest
from dim_ray.store.files.faults import is_gone, storage_errors
from dim_ray.store.files.filesystem import Root
from dim_ray.store.parsing import first_line, parse_apart
from dim_ray.store.row_files import num_packed
from dim_ray.store.schema import Table

__all__ = [
    "RowFile",
    "allowed_values",
    "checked",
    "list_files",
    "newest",
    "read_bytes",
    "read_rows",
]

_REMOTE_THREADS = 16  # which wait for the object store
_MAX_LISTINGS = 100
_MOST_TEXT_BYTES = 2**28  # in one array; from 2**31 on its offsets overflow, and pa.repeat doesn't look
_SUFFIX = ".parquet"
_AGE = ("created_at", "id")

_Part = tuple[pa.Table, Mapping[str, Any]]
"""Rows of one file, and by column the values that all of them share."""


@dataclass(frozen=True, kw_only=True)
class RowFile:
    """A file with rows."""

    path: str
    """Inside of the root's file system."""
    place: tuple[Any, ...]
    """The partition's columns, in the table's order."""

    @property
    def name(self) -> str:
        """Without its folder."""
        return self.path.rpartition("/")[2]

    @property
    def is_pack(self) -> bool:
        """Whether it has many rows and is never written again."""
        return num_packed(self.name) is not None


def list_files(root: Root, table: Table) -> list[RowFile]:
    """Lists a table's files, packs first.

    Raises:
        StorageError: A file lies where no rows belong.
    """
    places: dict[str, tuple[Any, ...]] = {}
    files = []
    for info in root.children(table.name, recursive=True):
        path = info.path
        if path.endswith(_SUFFIX) and info.is_file:
            folder = path.rpartition("/")[0]
            if folder not in places:
                places[folder] = _place(root, table, path)
            files.append(RowFile(path=path, place=places[folder]))
    return sorted(files, key=lambda file: not file.is_pack)


def read_rows(root: Root, table: Table, filters: Mapping[str, Any], columns: Sequence[str] | None = None) -> pa.Table:
    """Returns rows, oldest first.

    Args:
        root: The storage.
        table: Which rows.
        filters: column: value or [values]; None stands for a missing value.
        columns: Which columns. Default: all.

    Raises:
        UsageError: There is no such column, or a filter's value has another type than its column.
        StorageError: A file is damaged, of a newer version, or can't be read; it is named.
    """
    allowed = {name: allowed_values(table, name, value) for name, value in filters.items()}
    wanted = list(columns) if columns is not None else table.schema.names
    needed = list(dict.fromkeys([*wanted, *allowed, *_AGE, *table.partitions]))
    gathered, shared = _gather(root, table, allowed, [name for name in table.schema.names if name in needed])
    rows = newest(table, gathered)
    fits = [pc.is_in(rows[name], value_set=values) for name, values in allowed.items() if name not in shared]
    if fits and not pc.all(chosen := reduce(pc.and_, fits)).as_py():
        rows = rows.filter(chosen)
    if any(not pc.is_in(value, value_set=allowed[name]).as_py() for name, value in shared.items() if name in allowed):
        rows = rows.slice(0, 0)
    rows = rows.sort_by([(name, "ascending") for name in _AGE])
    for name in shared.keys() & set(wanted):
        rows = rows.append_column(table.schema.field(name), _repeated(shared[name], len(rows)))
    return rows.select(wanted)


def newest(table: Table, rows: pa.Table) -> pa.Table:
    """Returns each row once, as it was written last; of rows of the same time the last one.

    Partitions that all rows share may be left out.
    """
    if pc.count_distinct(rows["id"]).as_py() == len(rows):
        return rows
    by_age = pc.sort_indices(rows, sort_keys=[("created_at", "ascending")])  # stable
    keys = [name for name in (*table.partitions, "id") if name in rows.column_names]
    ranked = rows.select(keys).take(by_age).append_column("rank", pa.array(np.arange(len(rows))))
    last = ranked.group_by(keys).aggregate([("rank", "max")])["rank_max"]
    return rows.take(by_age.take(last))


def read_bytes(root: Root, path: str) -> bytes:
    """Returns a file's bytes.

    Raises:
        FileNotFoundError: It's no longer there.
        StorageError: It can't be read.
    """
    try:
        with root.filesystem.open_input_stream(path) as stream:
            data: bytes = stream.read()
    except (OSError, pa.ArrowException) as error:
        if is_gone(error):
            raise FileNotFoundError(path) from error
        with storage_errors("read", path):
            raise
    return data


def checked(table: Table, file: RowFile, rows: pa.Table, columns: Sequence[str] | None = None) -> pa.Table:
    """Returns a file's rows with the partition's columns and no null where none may be.

    Raises:
        StorageError: There is one; the file is named.
    """
    schema = pa.schema([field for field in table.schema if columns is None or field.name in columns])
    try:
        place = dict(zip(table.partitions, file.place, strict=True))
        return _with(table, rows, place, table.partitions).select(schema.names).cast(schema)
    except (pa.ArrowException, ValueError) as error:
        raise StorageError(f"{file.path} has rows that {table.name} can't have: {first_line(error)}.") from error


def allowed_values(table: Table, name: str, value: Any) -> pa.Array:
    """Returns a filter's values with the type of its column.

    Raises:
        UsageError: There is no such column, or a value has another type.
    """
    if name not in table.schema.names:
        raise UsageError(f"{table.name} has no column {name!r}; {nearest(name, table.schema.names)}")
    values = list(value) if isinstance(value, list | tuple | set | frozenset | range) else [value]
    kind = table.schema.field(name).type
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"the filter {name} is {value!r}; allowed: values of type {kind}, one or a list.") from error


def _gather(
    root: Root, table: Table, allowed: Mapping[str, pa.Array], columns: Sequence[str]
) -> tuple[pa.Table, dict[str, pa.Scalar]]:
    """Reads every file that there is, until no listing shows another pack; returns what `_join` does."""
    read: dict[RowFile, _Part] = {}
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


def _read_files(root: Root, table: Table, files: Sequence[RowFile], columns: Sequence[str]) -> dict[RowFile, _Part]:
    """Reads files, but for those that are gone."""

    def read(file: RowFile) -> _Part | None:
        try:
            data = read_bytes(root, file.path)
        except FileNotFoundError:
            return None
        rows, shared = parse_apart(table, file.path, data, columns)
        return rows, {**shared, **dict(zip(table.partitions, file.place, strict=True))}

    if root.is_local:  # threads would wait for each other: reading is as quick as parsing, which holds the interpreter
        parts = [read(file) for file in files]
    else:
        with ThreadPoolExecutor(_REMOTE_THREADS) as threads:
            parts = list(threads.map(read, files))
    return {file: part for file, part in zip(files, parts, strict=True) if part is not None}


def _join(table: Table, read: Mapping[RowFile, _Part], columns: Sequence[str]) -> tuple[pa.Table, dict[str, pa.Scalar]]:
    """Returns all rows, without the columns in which there is one value alone, and these values."""
    if not read:
        return pa.schema([table.schema.field(name) for name in columns]).empty_table(), {}
    # Packs first: of rows of the same time, that in a file of its own is the later one.
    parts = [read[file] for file in sorted(read, key=lambda file: not file.is_pack)]
    apart = set.intersection(*(set(shared) for _, shared in parts))
    inside = [name for name in columns if name not in apart]
    counts = [len(rows) for rows, _ in parts]
    try:
        whole = pa.concat_tables([_with(table, rows, shared, inside).select(inside) for rows, shared in parts])
        same: dict[str, pa.Scalar] = {}
        for name in apart:
            field = table.schema.field(name)
            values = pa.array([shared[name] for _, shared in parts], field.type)
            if values.null_count and not field.nullable:
                raise ValueError
            if len(values.unique()) == 1 and name != "id":
                same[name] = values[0]
            else:
                whole = whole.append_column(field, _repeated_each(values, counts))
        schema = pa.schema([table.schema.field(name) for name in columns if name not in same])
        return whole.select(schema.names).cast(schema).replace_schema_metadata(None), same
    except (pa.ArrowException, ValueError):
        for file, (rows, shared) in read.items():
            checked(table, file, _with(table, rows, shared, table.file_schema.names), columns)  # says which it was
        raise


def _with(table: Table, rows: pa.Table, shared: Mapping[str, Any], names: Sequence[str]) -> pa.Table:
    """Returns rows with those of the values that they share that are named."""
    for name in shared.keys() & set(names):
        value = pa.scalar(shared[name], table.schema.field(name).type)
        rows = rows.append_column(name, _repeated(value, len(rows)))
    return rows


def _repeated(value: pa.Scalar, num_rows: int) -> pa.ChunkedArray:
    """Returns a column of one value, in as many pieces as its texts need."""
    size_bytes = value.as_buffer().size if value.is_valid and pa.types.is_string(value.type) else 0
    piece = pa.repeat(value, min(num_rows, max(1, _MOST_TEXT_BYTES // size_bytes)) if size_bytes else num_rows)
    starts = range(0, num_rows, max(1, len(piece)))
    return pa.chunked_array([piece.slice(0, num_rows - start) for start in starts], value.type)


def _repeated_each(values: pa.Array, counts: Sequence[int]) -> pa.ChunkedArray:
    """Returns a column of each value as often as its count says."""
    is_text = pa.types.is_string(values.type)
    size_bytes = np.dot(np.asarray(pc.fill_null(pc.binary_length(values), 0)), counts) if is_text else 0
    if size_bytes <= _MOST_TEXT_BYTES:
        return pa.chunked_array([values.take(pa.array(np.repeat(np.arange(len(counts)), counts)))])
    columns = [_repeated(value, count) for value, count in zip(values, counts, strict=True)]
    return pa.chunked_array([piece for column in columns for piece in column.chunks], values.type)


def _chosen(table: Table, files: Iterable[RowFile], allowed: Mapping[str, pa.Array]) -> list[RowFile]:
    """Returns the files in whose partitions there may be rows that are asked for."""
    decided: dict[tuple[Any, ...], bool] = {}

    def fits(place: tuple[Any, ...]) -> bool:
        if place not in decided:
            pairs = zip(table.partitions, place, strict=True)
            decided[place] = all(value in allowed[name].to_pylist() for name, value in pairs if name in allowed)
        return decided[place]

    return [file for file in files if fits(file.place)]


def _place(root: Root, table: Table, path: str) -> tuple[Any, ...]:
    """Returns the partition columns, which the folders of a file name."""
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
