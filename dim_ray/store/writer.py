"""Append rows, one immutable Parquet file each, named by the row's id.

    Writer("./dim_storage").append_evaluations([{"dataset": "digits", "ipc": 10, ...}])

Any number of processes on any number of machines write at once, without a lock: different rows have different files,
and a retry writes the same file again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from dim_ray.store.files.faults import PAUSES_SECONDS
from dim_ray.store.files.filesystem import open_root
from dim_ray.store.row_files import encode, folder_key
from dim_ray.store.rows import check_row
from dim_ray.store.schema import EVALUATION_TABLE, TRIAL_TABLE, VALIDATION_TABLE, Table

__all__ = ["Writer"]


class Writer:
    """Append to the tables of a storage; arguments as for `dim_ray.store.files.filesystem.open_root`."""

    def __init__(self, root: str, pauses_seconds: tuple[float, ...] = PAUSES_SECONDS) -> None:
        self._root = open_root(root, pauses_seconds)

    def append_evaluations(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Write evaluations, with the columns of `EVALUATIONS`, after checking all; return their files' addresses."""
        return self._append(EVALUATION_TABLE, rows)

    def append_validations(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Write validations, with the columns of `VALIDATIONS`; see `append_evaluations`."""
        return self._append(VALIDATION_TABLE, rows)

    def append_trial(self, row: Mapping[str, Any]) -> str:
        """Write a trial, replacing its earlier row, with the columns of `TRIALS`; see `append_evaluations`."""
        [address] = self._append(TRIAL_TABLE, [row])
        return address

    def _append(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        schema = table.file_schema
        addresses = []
        for row in [check_row(table, row) for row in rows]:
            content = pa.Table.from_pylist([{name: row[name] for name in schema.names}], schema=schema)
            key = f"{folder_key(table, row)}/{row['id']}.parquet"
            addresses.append(self._root.write(key, encode(table, content)))
        return addresses
