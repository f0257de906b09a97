"""Reads rows as pandas data frames, and finds the best generator among them.

    Reader("./dim_storage").evaluations(dataset="digits", ipc=[10, 50])

`pandas.read_parquet("./dim_storage/evaluations")` reads the same rows. This reader adds what pandas leaves out: it
refuses rows of a newer schema, names the file that is damaged, and knows the columns of an empty table.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dim_ray.config import NO_QUIRKS, StudyConfig
from dim_ray.errors import StorageError, UsageError, nearest
from dim_ray.store.faults import storage_errors
from dim_ray.store.filesystem import open_root
from dim_ray.store.schema import EVALUATION_TABLE, SCHEMA_VERSION, TRIAL_TABLE, Table

__all__ = ["CELL", "Reader", "no_evaluations", "summarise", "terms", "usual_ipc"]

CELL = (
    "dataset",
    "protocol",
    "ipc",
    "architecture",
    "generator",
    "weights",
    "data_fingerprint",
    "preset",
    "quirks",
    "labels",
    "labeller",
    "budget_fingerprint",
    "optimiser_steps",
)
"""Columns that evaluations share when they differ by nothing but their seed."""

_TERMS = [name for name in CELL if name not in ("generator", "weights")]
_READ_THREADS = 16  # files are small: reading waits for the storage, above all an object store
_SUFFIX = ".parquet"


class Reader:
    """Reads the tables below one root."""

    def __init__(self, root: str) -> None:
        self._root = open_root(root)

    @property
    def root(self) -> str:
        """Absolute local path, or URI."""
        return self._root.uri

    def evaluations(self, **filters: Any) -> pd.DataFrame:
        """Returns evaluations, oldest first.

        Args:
            **filters: column=value or column=[values]; None stands for a missing value.

        Returns:
            Every column of `dim_ray.store.schema.EVALUATIONS`; no rows where nothing was written or fits.

        Raises:
            UsageError: There is no such column, or a value has another type than its column.
            StorageError: A file is damaged, of a newer version, or can't be read; it is named.
        """
        return self._read(EVALUATION_TABLE, filters)

    def trials(self, **filters: Any) -> pd.DataFrame:
        """Returns trials, oldest first: as `evaluations`, with the columns of `dim_ray.store.schema.TRIALS`."""
        return self._read(TRIAL_TABLE, filters)

    def best_cell(
        self, *, dataset: str, ipc: int, architecture: str | None = None, protocol: str = "on_the_fly"
    ) -> dict[str, Any]:
        """Finds the generator with the highest mean validation accuracy over seeds; the test set has no say.

        Generators are compared on equal terms: the same data, budget and architecture, those that most of them were
        evaluated with, and of several such the latest. Rows with quirks or soft labels choose nothing: the former
        measure a mistake, and the latter the teachers, too.

        Args:
            dataset: Name of the data set.
            ipc: Images per class; see `usual_ipc`.
            architecture: The students' architecture. Default: what most generators were evaluated with.
            protocol: How the students got their images.

        Returns:
            Its row of `summarise`: `generator` is its fingerprint, `validation_mean` what it was chosen by.

        Raises:
            StorageError: There is no such evaluation; the message says what there is.
            UsageError: `ipc` isn't a number.
        """
        _allowed_values(EVALUATION_TABLE, "ipc", ipc)
        every = self.evaluations()
        if every.empty:
            raise no_evaluations(self.root)
        rows = every[_may_choose(every)]
        wanted = rows[(rows["dataset"] == dataset) & (rows["ipc"] == ipc) & (rows["protocol"] == protocol)]
        if architecture is not None:
            wanted = wanted[wanted["architecture"] == architecture]
        if wanted.empty:
            asked = f"{dataset!r} at IPC {ipc}, protocol {protocol!r}" + (f", {architecture}" if architecture else "")
            raise StorageError(f"no generator was evaluated on {asked} under {self.root}; {_what_is_there(rows)}")
        comparable = max(
            (rows for _, rows in wanted.groupby(_TERMS, dropna=False)),
            key=lambda rows: (rows["generator"].nunique(), rows["created_at"].max()),
        )
        means = summarise(comparable).sort_values(["validation_mean", "generator"], ascending=[False, True])
        return {str(name): value for name, value in means.iloc[0].items()}

    def best_generator(
        self, *, dataset: str, ipc: int, architecture: str | None = None, protocol: str = "on_the_fly"
    ) -> str:
        """Returns the fingerprint of the generator of `best_cell`; raises as that does."""
        cell = self.best_cell(dataset=dataset, ipc=ipc, architecture=architecture, protocol=protocol)
        return str(cell["generator"])

    def _read(self, table: Table, filters: Mapping[str, Any]) -> pd.DataFrame:
        allowed = {name: _allowed_values(table, name, value) for name, value in filters.items()}
        files = []
        for info in self._root.children(table.name, recursive=True):
            if info.is_file and info.path.endswith(_SUFFIX):
                place = self._place(table, info.path)
                if all(_is_in(pa.scalar(place[name], v.type), v) for name, v in allowed.items() if name in place):
                    files.append((info.path, place))
        with ThreadPoolExecutor(_READ_THREADS) as threads:
            tables = list(threads.map(lambda file: self._read_file(table, *file), files))
        rows = pa.concat_tables([table.schema.empty_table(), *tables]).replace_schema_metadata(None)
        for name, values in allowed.items():
            rows = rows.filter(pc.is_in(rows[name], value_set=values))
        frame: pd.DataFrame = rows.sort_by([("created_at", "ascending"), ("id", "ascending")]).to_pandas()
        return frame

    def _place(self, table: Table, path: str) -> dict[str, Any]:
        """Returns the partition columns, which the folders of a file name."""
        relative = path[len(self._root.path_of(table.name)) + 1 :]
        pairs = [folder.partition("=") for folder in relative.split("/")[:-1]]
        if tuple(name for name, _, _ in pairs) != table.partitions:
            expected = "/".join(f"{name}=..." for name in table.partitions)
            raise StorageError(
                f"{path} isn't where rows of {table.name} belong ({table.name}/{expected}/); move it away."
            )
        try:
            return {
                name: int(value) if pa.types.is_integer(table.schema.field(name).type) else unquote(value)
                for name, _, value in pairs
            }
        except ValueError as error:
            raise StorageError(f"{path} isn't where rows of {table.name} belong: {error}; move it away.") from error

    def _read_file(self, table: Table, path: str, place: Mapping[str, Any]) -> pa.Table:
        with storage_errors("read", path):
            with self._root.filesystem.open_input_stream(path) as stream:
                data = stream.read()
            try:
                with pq.ParquetFile(pa.BufferReader(data)) as file:
                    _check_version(table, path, file.schema_arrow.metadata or {})
                    rows = file.read(use_threads=False)
            except (OSError, pa.ArrowException) as error:  # raised by the bytes at hand, not by the storage
                raise StorageError(
                    f"{path} is damaged ({len(data)} bytes that aren't a whole Parquet file: {_first_line(error)}). "
                    "Delete it, and run again what wrote it."
                ) from error
        for name, value in place.items():
            if name in rows.column_names:
                raise StorageError(f"{path} has the column {name} both inside and in its path; delete it.")
            rows = rows.append_column(name, pa.array([value] * len(rows), table.schema.field(name).type))
        present = set(rows.column_names)
        absent = [name for name in table.schema.names if name not in present]
        if absent:
            raise StorageError(f"{path} lacks the columns {', '.join(absent)}: it wasn't written by dim_ray.")
        try:
            return rows.select(table.schema.names).cast(table.schema)
        except (pa.ArrowException, ValueError) as error:
            raise StorageError(f"{path} has columns of other types than {table.name}: {_first_line(error)}.") from error


def summarise(evaluations: pd.DataFrame) -> pd.DataFrame:
    """Returns mean and standard deviation over seeds.

    Where the same seed was measured twice, by two versions of the code, the later row counts.

    Args:
        evaluations: Rows as `Reader.evaluations` returns them, oldest first.

    Returns:
        A row for each cell, with the columns `CELL`, mean and std of accuracy (std with n - 1; NaN where n is 1),
        validation_mean, and n.
    """
    latest = evaluations.drop_duplicates([*CELL, "seed"], keep="last")
    return (
        latest.groupby(list(CELL), dropna=False)
        .agg(
            mean=("accuracy", "mean"),
            std=("accuracy", "std"),
            validation_mean=("validation_accuracy", "mean"),
            n=("accuracy", "size"),
        )
        .reset_index()
    )


def terms(cell: Mapping[Any, Any]) -> str:
    """Returns in words what is unusual about a row or a cell: its quirks and soft labels; "" for neither."""
    quirks = "reference" if cell["preset"] == "reference" else cell["quirks"].replace("+", " + ")
    quirks = "" if cell["quirks"] == NO_QUIRKS else quirks
    return ", ".join(part for part in (quirks, "soft labels" if cell["labels"] == "soft" else "") if part)


def no_evaluations(root: str) -> StorageError:
    """Returns the error of a storage without evaluations, with what to do."""
    return StorageError(
        f"no evaluations under {root}: run python -m dim_ray.tune, or measure a generator that is there already with "
        "python -m dim_ray.evaluate PATH."
    )


def usual_ipc(evaluations: pd.DataFrame, *, dataset: str, protocol: str = "on_the_fly") -> int:
    """Returns the IPC at which generators are compared where none is asked for.

    Args:
        evaluations: Rows as `Reader.evaluations` returns them.
        dataset: Name of the data set.
        protocol: How the students got their images.

    Returns:
        The default of `study.selection_images_per_class`; the largest there is, where there is only another one.
    """
    usual = StudyConfig().selection_images_per_class
    is_wanted = (evaluations["dataset"] == dataset) & (evaluations["protocol"] == protocol)
    there = evaluations[is_wanted & _may_choose(evaluations)]["ipc"]
    return usual if there.empty or usual in there.to_numpy() else int(there.max())


def _may_choose(rows: pd.DataFrame) -> pd.Series[bool]:
    """Returns which rows say something about a generator that another may be compared with."""
    is_plain = (rows["quirks"] == NO_QUIRKS) & (rows["labels"] == "hard")
    return is_plain & rows["generator"].notna() & rows["validation_accuracy"].notna()


def _check_version(table: Table, path: str, metadata: Mapping[bytes, bytes]) -> None:
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


def _allowed_values(table: Table, name: str, value: Any) -> pa.Array:
    if name not in table.schema.names:
        raise UsageError(f"{table.name} has no column {name!r}; {nearest(name, table.schema.names)}")
    values = list(value) if isinstance(value, list | tuple | set | frozenset | range) else [value]
    kind = table.schema.field(name).type
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"the filter {name} is {value!r}; allowed: values of type {kind}, one or a list.") from error


def _is_in(value: pa.Scalar, values: pa.Array) -> bool:
    return bool(pc.is_in(value, value_set=values).as_py())


def _what_is_there(rows: pd.DataFrame) -> str:
    if rows.empty:
        return (
            "there are rows of real images only, or with quirks or soft labels, which choose nothing: run python -m "
            "dim_ray.tune, or python -m dim_ray.evaluate PATH."
        )
    there = [
        f"{dataset} (IPC {_joined(group['ipc'])}; {_joined(group['protocol'])}; {_joined(group['architecture'])})"
        for dataset, group in rows.groupby("dataset")
    ]
    return f"there is {', '.join(there)}."


def _joined(column: pd.Series[Any]) -> str:
    return ", ".join(map(str, sorted(column.unique())))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
