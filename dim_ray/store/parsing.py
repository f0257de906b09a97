"""A file of rows from its bytes: of our table, of a version that we know, undamaged.

rows = parse(EVALUATION_TABLE, path, data, columns=["id", "accuracy"])
rows, shared = parse_apart(EVALUATION_TABLE, path, data, columns=["id", "accuracy", "protocol"])
shared  # {"protocol": "fixed"}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dim_ray.errors import StorageError
from dim_ray.store.schema import SCHEMA_VERSION, Table, since

__all__ = ["first_line", "parse", "parse_apart"]

_LARGE_BYTES = 1_000_000  # for less, starting threads takes longer than reading


def parse(table: Table, path: str, data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Returns the rows in a file's bytes: columns of the table's `file_schema`, those of an older version as null.

    Args:
        table: Which rows they should be.
        path: For error messages.
        data: The file.
        columns: Which columns. Default: all that are inside of a file.

    Raises:
        StorageError: It's damaged, of a newer version, or not ours.
    """
    rows, _ = _parse(table, path, data, columns, is_apart=False)
    return rows


def parse_apart(
    table: Table, path: str, data: bytes, columns: Sequence[str] | None = None
) -> tuple[pa.Table, dict[str, str | int | None]]:
    """Returns what `parse` does, without columns in which all rows of the file agree, and their values by column.

    These, texts and whole numbers, are taken from the file's statistics, which are read in any case. Of the columns of
    a usual question that's most, and half of the time that a small file takes.
    """
    return _parse(table, path, data, columns, is_apart=True)


def first_line(error: Exception) -> str:
    """Returns the beginning of what a library says, without its full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _parse(
    table: Table, path: str, data: bytes, columns: Sequence[str] | None, *, is_apart: bool
) -> tuple[pa.Table, dict[str, str | int | None]]:
    schema = table.file_schema
    wanted = [name for name in schema.names if columns is None or name in columns]
    shared: dict[str, str | int | None] = {}
    try:
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            there = file.schema_arrow
            version = _check_version(table, path, there.metadata or {})
            absent = [] if there.equals(schema) else _absent(table, path, there.names, version)
            if is_apart:
                shared = _shared(file.metadata, there, schema, wanted)
            inside = [name for name in wanted if name not in absent and name not in shared]
            rows = file.read(inside, use_threads=len(data) > _LARGE_BYTES)
    except (OSError, pa.ArrowException) as error:  # raised by the bytes at hand, not by the storage
        raise StorageError(
            f"{path} is damaged ({len(data)} bytes that aren't a whole Parquet file: {first_line(error)}). "
            "Delete it, and run again what wrote it."
        ) from error
    rows = rows.replace_schema_metadata(None)
    if there.equals(schema):
        return rows, shared
    wanted = [name for name in wanted if name not in shared]
    for name in absent:
        if name in wanted:
            rows = rows.append_column(name, pa.nulls(len(rows), schema.field(name).type))
    try:
        return rows.select(wanted).cast(pa.schema([schema.field(name) for name in wanted])), shared
    except (pa.ArrowException, ValueError) as error:
        raise StorageError(f"{path} has columns of other types than {table.name}: {first_line(error)}.") from error


def _shared(metadata: pq.FileMetaData, there: pa.Schema, schema: pa.Schema, wanted: Sequence[str]) -> dict[str, Any]:
    """Returns the values of columns whose least and greatest value are one, and None for columns of nulls.

    Not of fractions: their statistics leave NaN out, and don't tell 0.0 from -0.0. Nor of columns of a wrong type.
    """
    shared: dict[str, Any] = {}
    if metadata.num_row_groups != 1:
        return shared
    group = metadata.row_group(0)
    for place, field in enumerate(there):
        if field.name not in wanted or field.type != schema.field(field.name).type:
            continue
        if pa.types.is_string(field.type) or pa.types.is_integer(field.type):
            known = group.column(place).statistics
            if known is None or not known.has_null_count:
                continue
            if known.null_count == metadata.num_rows:
                shared[field.name] = None
            elif known.null_count == 0 and known.has_min_max and known.min_raw == known.max_raw:
                shared[field.name] = known.min
    return shared


def _absent(table: Table, path: str, there: Sequence[str], version: int) -> list[str]:
    """Returns the columns that a file of an older version hasn't."""
    twice = [name for name in table.partitions if name in there]
    if twice:
        raise StorageError(f"{path} has the column {twice[0]} both inside and in its path; delete it.")
    absent = [name for name in table.file_schema.names if name not in there]
    lacking = [name for name in absent if since(table.schema.field(name)) <= version]
    if lacking:
        raise StorageError(f"{path} lacks the columns {', '.join(lacking)}: it wasn't written by dim_ray.")
    return absent


def _check_version(table: Table, path: str, metadata: Mapping[bytes, bytes]) -> int:
    text = metadata.get(b"schema_version", b"").decode(errors="replace")
    if not text.isdigit():
        raise StorageError(f"{path} carries no schema version, so it wasn't written by dim_ray; move it away.")
    if int(text) > SCHEMA_VERSION:
        raise StorageError(
            f"{path} was written by a newer version of dim_ray (schema {text}, this one reads up to "
            f"{SCHEMA_VERSION}): upgrade dim_ray."
        )
    written_for = metadata.get(b"table", b"").decode(errors="replace")
    if written_for != table.name:
        raise StorageError(
            f"{path} holds rows of {written_for or 'an unknown table'}, not of {table.name}; move it away."
        )
    return int(text)
