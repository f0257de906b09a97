"""The files of rows: their bytes and names, and packs, whose names say how many rows they have and of what bytes.

    key = write_pack(root, EVALUATION_TABLE, {"dataset": "digits", "ipc": 10}, rows)
    key  # evaluations/dataset=digits/ipc=10/rows-2000-0123456789abcdef.parquet

A pack is never changed: other bytes have another name. So whoever has read one may delete it by name, once its rows
are elsewhere, and two processes that write the same rows write the same file. The file of a single row, <id>.parquet,
is replaced when its row is written again. One that was set aside has a name of its own, and is never written again.
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
"""A file with as many rows is left as it is; a partition may have any number of them."""

_ROWS_FOR_DICTIONARIES = 50
_ASIDE = re.compile(r"(?P<row>.+)\.aside-[0-9a-f]{32}\.parquet")
_NAME = re.compile(r"rows-(?P<count>\d+)-(?P<digest>[0-9a-f]{16})\.parquet")


def encode(table: Table, rows: pa.Table) -> bytes:
    """Returns a Parquet file's bytes, every page with a checksum.

    Args:
        table: Where they belong.
        rows: With at least the columns of its `file_schema`.
    """
    schema = table.file_schema
    inside = rows.select(schema.names).cast(schema.remove_metadata()).replace_schema_metadata(schema.metadata)
    buffer = pa.BufferOutputStream()
    # In a file of few rows dictionaries are nothing but a second page for each column.
    pq.write_table(inside, buffer, write_page_checksum=True, use_dictionary=len(rows) >= _ROWS_FOR_DICTIONARIES)
    data: bytes = buffer.getvalue().to_pybytes()
    return data


def write_pack(root: Root, table: Table, place: Mapping[str, Any], rows: pa.Table) -> str:
    """Writes rows of one partition as one file, and reads it back.

    Args:
        root: The storage.
        table: Where they belong.
        place: The partition's columns.
        rows: At least one, with distinct ids.

    Returns:
        The file's key.

    Raises:
        StorageError: It can't be written, or the storage doesn't give back what was written.
    """
    data = encode(table, rows)
    digest = hashlib.sha256(data).hexdigest()[:16]
    key = f"{folder_key(table, place)}/rows-{len(rows)}-{digest}.parquet"
    root.write(key, data)
    if root.read(key) not in (data, None):  # None: another compaction has its rows in a pack of its own already
        raise StorageError(f"{root.uri_of(key)} doesn't read as it was written; nothing was deleted. Check the disk.")
    return key


def folder_key(table: Table, place: Mapping[str, Any]) -> str:
    """Returns the key of a partition's folder."""
    return "/".join([table.name, *(f"{name}={place[name]}" for name in table.partitions)])


def num_packed(name: str) -> int | None:
    """Returns how many rows a file of this name has; None where it's no pack."""
    match = _NAME.fullmatch(name)
    return int(match["count"]) if match else None


def pack_digest(name: str) -> str | None:
    """Returns the first 16 hexadecimal digits of the SHA-256 of a pack's bytes; None where it's no pack."""
    match = _NAME.fullmatch(name)
    return match["digest"] if match else None


def aside_name(name: str) -> str:
    """Returns a new name for a single row's file, which nobody will write."""
    return f"{name.removesuffix('.parquet')}.aside-{uuid.uuid4().hex}.parquet"


def is_aside(name: str) -> bool:
    """Whether `aside_name` made this name."""
    return _ASIDE.fullmatch(name) is not None


def row_of(name: str) -> str:
    """Returns the id of the row in a single row's file."""
    match = _ASIDE.fullmatch(name)
    return match["row"] if match else name.removesuffix(".parquet")
