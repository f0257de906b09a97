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
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dim_ray.errors import StorageError
from dim_ray.store.files.filesystem import Root
from dim_ray.store.schema import Table

__all__ = [
    "ROWS_PER_PACK",
    "aside_name",
    "encode",
    "folder_key",
    "is_aside",
    "num_packed",
    "pack_digest",
    "row_of",
    "write_pack",
]

ROWS_PER_PACK = 100_000
"""Rows from which a file isn't packed any more."""

_ROWS_FOR_DICTIONARIES = 50
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
