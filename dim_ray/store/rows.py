"""Check rows before they are written, and compute their ids.

check_row(EVALUATION_TABLE, {"dataset": "digits", "ipc": 10, ...})["id"]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from numbers import Integral, Real
from typing import Any

import pyarrow as pa

from dim_ray.config import fingerprint
from dim_ray.errors import StorageError, listed, nearest
from dim_ray.store.files.filesystem import check_name
from dim_ray.store.schema import FRACTION, SCHEMA_VERSION, Table, meaning

__all__ = ["check_row", "row_id"]

_MAX_SHOWN = 80


def row_id(table: Table, values: Mapping[str, Any]) -> str:
    """Return the id of a row, of its columns `table.id_columns`: 16 hexadecimal digits, the same in every process."""
    return fingerprint(table.name, *(values[name] for name in table.id_columns))


def check_row(table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with every column of the table, or raise a StorageError about a column or value that doesn't fit.

    `id`, `schema_version` and `created_at` are filled in if absent. Give all other columns, None for no value.
    """
    names = table.schema.names
    for column in row:
        if column not in names:
            raise StorageError(f"the row for {table.name} has the unknown column {column!r}; {nearest(column, names)}")
    complete = {"id": None, "schema_version": SCHEMA_VERSION, "created_at": datetime.now(UTC), **row}
    missing = [name for name in names if name not in complete]
    if missing:
        raise StorageError(
            f"the row for {table.name} lacks {listed(missing)}; give every column, None where it has no value."
        )
    values = {
        field.name: _checked(f"{table.name}.{field.name}", field, complete[field.name])
        for field in table.schema
        if field.name != "id"
    }
    own = row_id(table, values) if complete["id"] is None else complete["id"]
    values["id"] = check_name(f"{table.name}.id", own)
    if values["schema_version"] != SCHEMA_VERSION:
        raise StorageError(
            f"{table.name}.schema_version is {values['schema_version']!r}; this version writes {SCHEMA_VERSION}."
        )
    for name in table.partitions:
        if isinstance(values[name], str):
            check_name(f"{table.name}.{name}", values[name])
        elif values[name] < 1:
            raise StorageError(f"{table.name}.{name} is {values[name]!r}; allowed: 1 or more.")
    return values


def _checked(where: str, field: pa.Field, value: Any) -> Any:
    """Return a value as the plain Python value that is stored."""
    if value is None:
        if not field.nullable:
            raise StorageError(f"{where} is None; this column needs a value ({meaning(field, 'description')})")
        return None
    fits, wanted = next((fits, wanted) for is_kind, fits, wanted in _KINDS if is_kind(field.type))
    if not fits(value):
        raise StorageError(f"{where} is {_shown(value)} ({type(value).__name__}); allowed: {wanted}.")
    try:
        plain = pa.scalar(value, field.type).as_py()
    except (pa.ArrowException, OverflowError, ValueError) as error:
        raise StorageError(f"{where} is {_shown(value)}, which isn't a {field.type}: {error}") from error
    if meaning(field, "unit") == FRACTION and not 0 <= plain <= 1:
        raise StorageError(f"{where} is {value!r}; allowed: a {FRACTION} (not a percentage).")
    allowed = meaning(field, "allowed")
    if allowed and plain not in allowed.split(", "):
        raise StorageError(f"{where} is {value!r}, which is unknown; {nearest(plain, allowed.split(', '))}")
    return plain


def _is_time(value: Any) -> bool:
    return isinstance(value, datetime) and value.tzinfo is not None


# pyarrow itself would take 1.5 for the integer 1, True for 1.0 and a local time for UTC
_KINDS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[Any], bool], str], ...] = (
    (pa.types.is_string, lambda value: isinstance(value, str), "a string"),
    (pa.types.is_integer, lambda value: isinstance(value, Integral) and not isinstance(value, bool), "a whole number"),
    (pa.types.is_floating, lambda value: isinstance(value, Real) and not isinstance(value, bool), "a number"),
    (pa.types.is_timestamp, _is_time, "a datetime with a time zone"),
)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
