"""Images in Parquet as the Hugging Face hub stores them: `--dataset parquet:PATH`.

PATH is a file or a folder, local or a URI (s3://, gs://, file://). In a folder, or in `data` below it, a file's name
says its split: train*.parquet, test*.parquet, validation*.parquet (or valid, val), also in shards such as
train-00000-of-00003.parquet. A single file is a training split. Images are a struct column with the encoded `bytes`;
labels are integers, named by the schema's `huggingface` metadata, or strings. Rows count from 0.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from dim_ray.core.data.decoding import Decoder, join
from dim_ray.core.data.parquet_files import find_parquet_files
from dim_ray.core.data.splits import Source, Split
from dim_ray.errors import DataError

__all__ = ["read_parquet"]

_IMAGE_NAMES = ("image", "img")
_LABEL_NAMES = ("label", "labels", "fine_label")
_ROWS_PER_BATCH = 4096


@dataclass(frozen=True, kw_only=True)
class _Table:
    where: str
    images: list[NDArray[np.uint8]]
    labels: NDArray[Any]  # (N,) int64, or strings
    declared_names: list[str] | None


def read_parquet(path: str) -> Source:
    """Read a data set in the Hugging Face image layout from a file or a folder, local or a URI.

    Raises:
        DataError: Files, columns, rows or classes are missing or unusable.
    """
    files = find_parquet_files(path)
    decoder = Decoder()
    tables = {
        split: [_read(files.filesystem, name, f"{files.scheme}{name}", decoder) for name in names]
        for split, names in files.splits.items()
    }
    for split, parts in tables.items():
        if not any(table.images for table in parts):
            raise DataError(f"{parts[0].where} has no rows; the {split} split needs images.")
    class_names = _class_names(tables)
    images = join({split: [batch for table in parts for batch in table.images] for split, parts in tables.items()})
    splits = {
        split: Split(
            images=images[split],
            labels=torch.from_numpy(np.concatenate([_numbered(table, class_names) for table in parts])),
        )
        for split, parts in tables.items()
    }
    return Source(**splits, class_names=tuple(class_names))


def _read(filesystem: pa.fs.FileSystem, name: str, where: str, decoder: Decoder) -> _Table:
    images: list[NDArray[np.uint8]] = []
    labels: list[NDArray[Any]] = []
    try:
        with filesystem.open_input_file(name) as file, pq.ParquetFile(file) as parquet:
            schema = parquet.schema_arrow
            image_column, label_column = _image_column(schema, where), _label_column(schema, where)
            first_row = 0
            for batch in parquet.iter_batches(_ROWS_PER_BATCH, columns=[f"{image_column}.bytes", label_column]):
                row = _row_names(first_row, where)
                labels.append(_labels(batch.column(label_column), label_column, row))
                images.append(decoder.decode(_encoded(batch.column(image_column), image_column, row), row))
                first_row += len(batch)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{where} can't be read as Parquet ({' '.join(str(error).split())}). It may be truncated or of another "
            "format: copy or download it again."
        ) from error
    return _Table(
        where=where,
        images=images,
        labels=np.concatenate(labels) if labels else np.empty(0, dtype=np.int64),
        declared_names=_declared_names(schema, label_column),
    )


def _row_names(first_row: int, where: str) -> Callable[[int], str]:
    return lambda index: f"row {first_row + index} of {where}"


def _image_column(schema: pa.Schema, where: str) -> str:
    candidates = [
        field.name for field in schema if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
    ]
    named = [name for name in _IMAGE_NAMES if name in candidates] or candidates
    if not named:
        raise DataError(
            f"{where} has no image column among {_listed(schema)}; needed is a struct column with the field 'bytes' "
            "(encoded image), best named 'image'."
        )
    if len(named) > 1 and named[0] not in _IMAGE_NAMES:
        raise DataError(f"{where} has several image columns: {', '.join(named)}. Name one of them 'image'.")
    return str(named[0])


def _label_column(schema: pa.Schema, where: str) -> str:
    integers = [field.name for field in schema if pa.types.is_integer(field.type)]
    for name in _LABEL_NAMES:
        if name in schema.names:
            if name in integers or _is_text(schema.field(name).type):
                return name
            raise DataError(
                f"The label column {name!r} of {where} is of type {schema.field(name).type}; "
                "allowed: integers and strings."
            )
    if len(integers) != 1:
        raise DataError(
            f"{where} has no label column among {_listed(schema)}; looked for {', '.join(_LABEL_NAMES)}, "
            "or an only column of integers. Rename the column to 'label'."
        )
    return str(integers[0])


def _is_text(data_type: pa.DataType) -> bool:
    value_type = data_type.value_type if pa.types.is_dictionary(data_type) else data_type
    return bool(
        pa.types.is_string(value_type) or pa.types.is_large_string(value_type) or pa.types.is_string_view(value_type)
    )


def _listed(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)


def _encoded(column: pa.StructArray, name: str, row: Callable[[int], str]) -> Sequence[bytes]:
    encoded = pc.struct_field(column, "bytes")  # unlike column.field(), null where the struct is null
    if encoded.null_count:
        raise DataError(
            f"{row(_first(encoded.is_null()))} has no image: {name}.bytes is null. Embed the image's bytes or leave "
            "the row out."
        )
    values: list[bytes] = encoded.to_pylist()
    return values


def _labels(column: pa.Array, name: str, row: Callable[[int], str]) -> NDArray[Any]:
    if column.null_count:
        raise DataError(f"{row(_first(column.is_null()))} has no label: {name} is null. Leave the row out.")
    if _is_text(column.type):
        return np.array(column.to_pylist(), dtype=np.str_)
    labels: NDArray[Any] = column.cast(pa.int64()).to_numpy(zero_copy_only=False)
    return labels


def _first(mask: pa.BooleanArray) -> int:
    return int(pc.index(mask, True).as_py())


def _declared_names(schema: pa.Schema, label_column: str) -> list[str] | None:
    """Return the names of a ClassLabel; metadata of another form is ignored."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][label_column]
        return [str(name) for name in feature["names"]]
    except (KeyError, TypeError, ValueError):
        return None


def _class_names(tables: Mapping[str, Sequence[_Table]]) -> list[str]:
    parts = [table for split in tables.values() for table in split if len(table.labels)]
    for table in parts:
        if table.labels.dtype.kind != parts[0].labels.dtype.kind:
            raise DataError(
                f"{parts[0].where} and {table.where} have labels of different types. Write integers or strings in all."
            )
    values = np.unique(np.concatenate([table.labels for table in tables["train"] if len(table.labels)]))
    if parts[0].labels.dtype.kind == "U":
        return [str(value) for value in values]
    declaring = [table for table in parts if table.declared_names is not None]
    for table in declaring:
        if table.declared_names != declaring[0].declared_names:
            raise DataError(
                f"{declaring[0].where} and {table.where} name their classes differently: "
                f"{declaring[0].declared_names} and {table.declared_names}. Labels must mean the same in all files."
            )
    if declaring and declaring[0].declared_names:
        return declaring[0].declared_names
    values = values[values >= 0]  # negative ones are refused with their row
    if len(values) and values[-1] != len(values) - 1:
        missing = next(number for number, value in enumerate(values) if number != value)
        raise DataError(
            f"The training labels of {tables['train'][0].where} are {len(values)} numbers from {values[0]} to "
            f"{values[-1]}; allowed: all of 0 to K-1 for K classes, but {missing} is missing. Number the classes anew."
        )
    return [str(number) for number in range(len(values))]


def _numbered(table: _Table, class_names: Sequence[str]) -> NDArray[np.int64]:
    if table.labels.dtype.kind == "U":
        numbers = {name: number for number, name in enumerate(class_names)}
        numbered = np.array([numbers.get(str(label), -1) for label in table.labels], dtype=np.int64)
        allowed = f"the classes of the training split: {', '.join(class_names)}"
    else:
        numbered = table.labels
        allowed = f"0 to {len(class_names) - 1}, for {len(class_names)} classes"
    wrong = np.flatnonzero((numbered < 0) | (numbered >= len(class_names)))
    if len(wrong):
        value = table.labels[wrong[0]].item()
        raise DataError(
            f"row {wrong[0]} of {table.where} has the label {value!r}; allowed: {allowed}. Correct it or leave it out."
        )
    return numbered
