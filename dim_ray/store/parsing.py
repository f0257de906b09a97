"""Parse a file of rows, checking that it is ours, of a known version and undamaged.

rows = parse(EVALUATION_TABLE, path, data, columns=["id", "accuracy"])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from dim_ray.errors import StorageError, listed
from dim_ray.store.schema import SCHEMA_VERSION, Table, since

__all__ = ["first_line", "parse"]

_LARGE_BYTES = 1_000_000  # below that, starting threads takes longer than reading


def parse(table: Table, path: str, data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of a file: columns of `table.file_schema`, null where an older version lacks them.

    Raises:
        StorageError: The file is damaged, of a newer version, or not ours.
    """
    schema = table.file_schema
    wanted = [name for name in schema.names if columns is None or name in columns]
    try:
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            there = file.schema_arrow
            version = _check_version(table, path, there.metadata or {})
            absent = [] if there.equals(schema) else _absent(table, path, there.names, version)
            inside = [name for name in wanted if name not in absent]
            rows = file.read(inside, use_threads=len(data) > _LARGE_BYTES)
    except (OSError, pa.ArrowException) as error:  # about these bytes, not about the storage
        raise StorageError(
            f"{path} is damaged ({len(data)} bytes that aren't a whole Parquet file: {first_line(error)}). "
            "Delete it, and run again what wrote it."
        ) from error
    rows = rows.replace_schema_metadata(None)
    if there.equals(schema):
        return rows
    for name in set(absent) & set(wanted):
        rows = rows.append_column(name, pa.nulls(len(rows), schema.field(name).type))
    try:
        return rows.select(wanted).cast(pa.schema([schema.field(name) for name in wanted]))
    except (pa.ArrowException, ValueError) as error:
        raise StorageError(f"{path} has columns of other types than {table.name}: {first_line(error)}.") from error


def first_line(error: Exception) -> str:
    """Return the first line of a library's error, without its full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _absent(table: Table, path: str, there: Sequence[str], version: int) -> list[str]:
    """Return the columns that a file of an older version lacks."""
    twice = [name for name in table.partitions if name in there]
    if twice:
        raise StorageError(f"{path} has the column {twice[0]} both inside and in its path; delete it.")
    absent = [name for name in table.file_schema.names if name not in there]
    lacking = [name for name in absent if since(table.schema.field(name)) <= version]
    if lacking:
        raise StorageError(f"{path} lacks the columns {listed(lacking)}: it wasn't written by dim_ray.")
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
