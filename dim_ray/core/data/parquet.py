"""Images in Parquet as the Hugging Face hub stores them: `--dataset parquet:PATH` or `hf://datasets/ORG/NAME`.

PATH is a file or a folder, local or a URI (hf://, s3://, gs://, file://); PATH#NAME chooses one of several
configurations. A single file is a training split; a folder's files are dealt to splits as the Hub does (`hub_layout`).
Labels are integers, named by the file's or README.md's metadata, or strings. A validation or test split without labels
is left out. Rows count from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from dim_ray.core.data.decoding import Decoder, join
from dim_ray.core.data.hub_columns import Columns, find_columns, is_text
from dim_ray.core.data.hub_files import ParquetFiles, find_parquet_files
from dim_ray.core.data.splits import Source, Split
from dim_ray.core.data.tree import remark
from dim_ray.errors import DataError, listed, one_line

__all__ = ["read_parquet"]

_ROWS_PER_BATCH = 4096
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, kw_only=True)
class _Table:
    where: str
    columns: Columns
    images: list[NDArray[np.uint8]]
    labels: pa.Array  # (N,) int64 or string; null, -1 and "" stand for no label


def read_parquet(path: str) -> Source:
    """Read a data set in the Hugging Face image layout from a file or a folder, local or a URI; `#NAME` may follow.

    Raises:
        DataError: Files, columns, rows or classes are missing or unusable, or the layout can be understood in two ways.
    """
    files = find_parquet_files(path)
    decoder = Decoder()
    tables = {
        split: [_read(files, name, decoder, needs_label=split == "train") for name in names]
        for split, names in files.layout.splits.items()
    }
    for split, parts in tables.items():
        _check_rows(split, parts, files)
    unlabelled = [split for split, parts in tables.items() if split != "train" and not any(map(_is_labelled, parts))]
    labelled = {split: parts for split, parts in tables.items() if split not in unlabelled}
    class_names, numbers, unused = _classes(labelled, files)
    images = join({split: [batch for table in parts for batch in table.images] for split, parts in labelled.items()})
    splits = {
        split: Split(
            images=images[split],
            labels=torch.from_numpy(np.concatenate([_numbered(table, numbers) for table in parts])),
        )
        for split, parts in labelled.items()
    }
    return Source(
        **splits,
        class_names=tuple(class_names),
        remarks=(
            *remark("splits without labels left out", unlabelled),
            *remark("classes without images left out", unused),
            *dict.fromkeys(text for parts in tables.values() for table in parts for text in table.columns.remarks),
            *decoder.remarks(),
            *files.layout.remarks,
        ),
    )


def _read(files: ParquetFiles, name: str, decoder: Decoder, *, needs_label: bool) -> _Table:
    images: list[NDArray[np.uint8]] = []
    labels: list[pa.Array] = []
    where = f"{files.scheme}{files.root}{name}"
    try:
        with files.filesystem.open_input_file(f"{files.root}{name}") as file:
            _check_pointer(file, where)
            with pq.ParquetFile(file) as parquet:
                columns = find_columns(parquet.schema_arrow, where, needs_label=needs_label)
                wanted = [f"{columns.image}.bytes" if columns.is_struct else columns.image]
                wanted += [columns.label] if columns.label else []
                first_row = 0
                for batch in parquet.iter_batches(_ROWS_PER_BATCH, columns=wanted):
                    row = _row_names(first_row, where)
                    labels.append(_labels(batch, columns))
                    images.append(decoder.decode(_encoded(batch.column(columns.image), columns, row), row))
                    first_row += len(batch)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{where} can't be read as Parquet ({one_line(error)}). It may be truncated or of another "
            "format: copy or download it again."
        ) from error
    return _Table(
        where=where,
        columns=columns,
        images=images,
        labels=pa.concat_arrays(labels) if labels else pa.array([], pa.int64()),
    )


def _check_pointer(file: pa.NativeFile, where: str) -> None:
    if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
        raise DataError(f"{where} is only a pointer to a file that Git LFS keeps elsewhere. Run `git lfs pull` there.")
    file.seek(0)


def _row_names(first_row: int, where: str) -> Callable[[int], str]:
    return lambda index: f"row {first_row + index} of {where}"


def _encoded(column: pa.Array, columns: Columns, row: Callable[[int], str]) -> Sequence[bytes]:
    # Unlike column.field(), null where the struct is null.
    encoded = pc.struct_field(column, "bytes") if columns.is_struct else column
    if encoded.null_count:
        name = f"{columns.image}.bytes" if columns.is_struct else columns.image
        raise DataError(
            f"{row(_first(encoded.is_null()))} has no image: {name} is null. Embed the image's bytes or leave the row "
            "out."
        )
    values: list[bytes] = encoded.to_pylist()
    return values


def _labels(batch: pa.RecordBatch, columns: Columns) -> pa.Array:
    if columns.label is None:
        return pa.nulls(len(batch), pa.int64())
    column = batch.column(columns.label)
    return column.cast(pa.string() if is_text(column.type) else pa.int64())


def _first(mask: pa.BooleanArray) -> int:
    return int(pc.index(mask, True).as_py())


def _is_labelled(table: _Table) -> bool:
    nothing = "" if is_text(table.labels.type) else -1
    return bool(pc.any(pc.not_equal(table.labels, nothing)).as_py())


def _check_rows(split: str, parts: Sequence[_Table], files: ParquetFiles) -> None:
    num_rows = sum(len(table.labels) for table in parts)
    if not num_rows:
        raise DataError(f"{parts[0].where} has no rows; the {split} split needs images.")
    promised = files.layout.num_rows.get(split, num_rows)
    if promised != num_rows:
        raise DataError(
            f"{files.scheme}{files.root}README.md declares {promised:,} rows of {split}, but there are {num_rows:,}. "
            "Add the missing files, or correct it."
        )


def _classes(
    tables: Mapping[str, Sequence[_Table]], files: ParquetFiles
) -> tuple[list[str], dict[int | str, int], list[str]]:
    """Return the names of the classes, the number of each label, and names without any image."""
    parts = [table for split in tables.values() for table in split if len(table.labels)]
    for table in parts:
        if table.labels.type != parts[0].labels.type:
            raise DataError(
                f"{parts[0].where} and {table.where} have labels of different types. Write integers or strings in all."
            )
    values = _values(tables["train"])
    if is_text(parts[0].labels.type):
        return list(map(str, values)), {value: number for number, value in enumerate(values)}, []
    names = _declared_names(parts, files)
    if names:
        everywhere = set(_values(parts))
        used = [label for label in range(len(names)) if label in everywhere]
        numbers: dict[int | str, int] = {label: number for number, label in enumerate(used)}
        return [names[label] for label in used], numbers, [names[label] for label in {*range(len(names))} - {*used}]
    values = [value for value in values if int(value) >= 0]  # negative ones are refused with their row
    for number, value in enumerate(values):
        if number != value:
            raise DataError(
                f"The training labels of {tables['train'][0].where} are {len(values)} numbers from {values[0]} to "
                f"{values[-1]}; allowed: all of 0 to K-1 for K classes, but {number} is missing. Number the classes "
                "anew."
            )
    return list(map(str, values)), {value: number for number, value in enumerate(values)}, []


def _values(tables: Sequence[_Table]) -> list[int | str]:
    """Return the different labels, sorted; neither null nor an empty string is one."""
    every = {value for table in tables for value in table.labels.unique().to_pylist()}
    return sorted(every - {None, ""})


def _declared_names(parts: Sequence[_Table], files: ParquetFiles) -> list[str] | None:
    declaring = [table for table in parts if table.columns.class_names is not None]
    for table in declaring:
        if table.columns.class_names != declaring[0].columns.class_names:
            raise DataError(
                f"{declaring[0].where} and {table.where} name their classes differently: "
                f"{listed(declaring[0].columns.class_names or [])} and {listed(table.columns.class_names or [])}. "
                "Labels must mean the same in all files."
            )
    if declaring and declaring[0].columns.class_names:
        return declaring[0].columns.class_names
    return files.layout.class_names.get(parts[0].columns.label or "")


def _numbered(table: _Table, numbers: Mapping[int | str, int]) -> NDArray[np.int64]:
    """Return the class numbers (N,) of a file's labels."""
    known = pa.array(list(numbers), table.labels.type)
    positions = pc.index_in(table.labels, known, skip_nulls=True)
    if positions.null_count:
        row = _first(positions.is_null())
        value = table.labels[row].as_py()
        if value is None:
            raise DataError(
                f"row {row} of {table.where} has no label: {table.columns.label or 'it'} is null. Leave the row out."
            )
        allowed = (
            f"the classes of the training split: {listed(numbers)}"
            if isinstance(value, str)
            else f"0 to {len(numbers) - 1}, for {len(numbers)} classes"
        )
        raise DataError(
            f"row {row} of {table.where} has the label {value!r}; allowed: {allowed}. Correct it or leave it out."
        )
    numbered: NDArray[np.int64] = positions.cast(pa.int64()).to_numpy(zero_copy_only=False)
    return numbered
