"""Appends rows: one immutable Parquet file a row, under a name that a retry writes again.

    Writer("./dim_storage").append_evaluations([{"dataset": "digits", "ipc": 10, ...}])

Any number of processes on any number of machines write at once, without a lock: their rows have different ids and
so different files, and the same row has the same file.
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
    """Appends to the tables below one root.

    Args:
        root: As for `dim_ray.store.files.filesystem.open_root`.
        pauses_seconds: Between one try and the next, where the storage refuses what it may take later.
    """

    def __init__(self, root: str, pauses_seconds: tuple[float, ...] = PAUSES_SECONDS) -> None:
        self._root = open_root(root, pauses_seconds)

    def append_evaluations(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Writes evaluations; every row is checked before the first is written.

        Args:
            rows: Columns of `dim_ray.store.schema.EVALUATIONS`.

        Returns:
            The addresses of their files.

        Raises:
            StorageError: A row doesn't fit the table, or the storage can't be written.
        """
        return self._append_all(EVALUATION_TABLE, rows)

    def append_validations(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Writes validations: as `append_evaluations`, with the columns of `dim_ray.store.schema.VALIDATIONS`."""
        return self._append_all(VALIDATION_TABLE, rows)

    def append_trial(self, row: Mapping[str, Any]) -> str:
        """Writes one trial; a trial that is written again takes the place of its earlier row.

        Args:
            row: Columns of `dim_ray.store.schema.TRIALS`.

        Returns:
            The address of its file.

        Raises:
            StorageError: The row doesn't fit the table, or the storage can't be written.
        """
        return self._append(TRIAL_TABLE, check_row(TRIAL_TABLE, row))

    def _append_all(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        checked = [check_row(table, row) for row in rows]
        return [self._append(table, row) for row in checked]

    def _append(self, table: Table, row: Mapping[str, Any]) -> str:
        schema = table.file_schema
        content = pa.Table.from_pylist([{name: row[name] for name in schema.names}], schema=schema)
        return self._root.write(f"{folder_key(table, row)}/{row['id']}.parquet", encode(table, content))
