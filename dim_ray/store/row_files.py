"""Names and contents of files with rows.

    key = write_pack(root, EVALUATION_TABLE, {"dataset": "digits", "ipc": 10}, rows)
    key  # evaluations/dataset=digits/ipc=10/rows-2000-0123456789abcdef.parquet

The file of a single row, <id>.parquet, is replaced when the row is written again. A pack has many rows and never
changes: its name has the number of rows and a digest of its bytes. A file set aside has a name that nobody writes.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dim_ray.errors import StorageError, listed, one_line
from dim_ray.store.files.filesystem import Root
from dim_ray.store.schema import SCHEMA_VERSION, Table, since

__all__ = [
    "ROWS_PER_PACK",
    "aside_name",
    "encode",
    "folder_key",
    "is_aside",
    "num_packed",
    "pack_digest",
    "parse",
    "row_of",
    "write_pack",
]

ROWS_PER_PACK = 100_000
"""Rows from which a file isn't packed any more."""

_ROWS_FOR_DICTIONARIES = 50
_LARGE_BYTES = 1_000_000  # below that, starting threads takes longer than reading
_ASIDE = re.compile(r"(?P<row>.+)\.aside-[0-9a-f]{32}\.parquet")
_NAME = re.compile(r"rows-(?P<count>\d+)-(?P<digest>[0-9a-f]{16})\.parquet")


def encode(table: Table, rows: pa.Table) -> bytes:
    """Return a Parquet file with checksums, of rows with at least the columns of `table.file_schema`."""
    schema = table.file_schema
    inside = rows.select(schema.names).cast(schema.remove_metadata()).replace_schema_metadata(schema.metadata)
    buffer = pa.BufferOutputStream()
    # In a file of few rows a dictionary is only a second page per column.
    pq.write_table(inside, buffer, write_page_checksum=True, use_dictionary=len(rows) >= _ROWS_FOR_DICTIONARIES)
    data: bytes = buffer.getvalue().to_pybytes()
    return data


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
            f"{path} is damaged ({len(data)} bytes that aren't a whole Parquet file: {one_line(error)}). "
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
        raise StorageError(f"{path} has columns of other types than {table.name}: {one_line(error)}.") from error


def write_pack(root: Root, table: Table, place: Mapping[str, Any], rows: pa.Table) -> str:
    """Write rows of one partition, with distinct ids, as one file, check that it reads the same, and return its key."""
    data = encode(table, rows)
    digest = hashlib.sha256(data).hexdigest()[:16]
    key = f"{folder_key(table, place)}/rows-{len(rows)}-{digest}.parquet"
    root.write(key, data)
    if root.read(key) not in (data, None):  # None: another compaction has packed it already
        raise StorageError(f"{root.uri_of(key)} doesn't read as it was written; nothing was deleted. Check the disk.")
    return key


def folder_key(table: Table, place: Mapping[str, Any]) -> str:
    """Return the key of a partition's folder."""
    return "/".join([table.name, *(f"{name}={place[name]}" for name in table.partitions)])


def num_packed(name: str) -> int | None:
    """Return the number of rows in a pack's name, or None for another file."""
    match = _NAME.fullmatch(name)
    return int(match["count"]) if match else None


def pack_digest(name: str) -> str | None:
    """Return the digest in a pack's name, the first 16 digits of its SHA-256, or None for another file."""
    match = _NAME.fullmatch(name)
    return match["digest"] if match else None


def aside_name(name: str) -> str:
    """Return a new name for the file of a single row."""
    return f"{name.removesuffix('.parquet')}.aside-{uuid.uuid4().hex}.parquet"


def is_aside(name: str) -> bool:
    """Return whether `aside_name` made this name."""
    return _ASIDE.fullmatch(name) is not None


def row_of(name: str) -> str:
    """Return the id of the row in a single row's file."""
    match = _ASIDE.fullmatch(name)
    return match["row"] if match else name.removesuffix(".parquet")


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
