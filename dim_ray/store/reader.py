"""Reads rows as pandas data frames, and ranks the generators among them.

    store = dim_ray.open_store("./dim_storage")
    store.evaluations(dataset="digits", ipc=[10, 50])
    store.best(dataset="digits", ipc=10, max_bytes=100_000)
    store.pareto(study="digits-0123abcd", objectives=["accuracy", "generator_bytes"])
    store.sql("select dataset, avg(accuracy) from evaluations group by dataset")

`pandas.read_parquet("./dim_storage/evaluations")` reads the same rows. This reader adds what pandas leaves out: each
row once while others compact, rows of a newer schema refused, damaged files by name, the columns of an empty table.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from typing import Any

import pandas as pd

from dim_ray.config import NO_QUIRKS
from dim_ray.errors import StorageError, nearest
from dim_ray.store.analysis.pareto import pareto_set, study_objectives
from dim_ray.store.analysis.selection import CELL, may_choose, no_evaluations, rank, what_is_there
from dim_ray.store.analysis.sql import query
from dim_ray.store.files.filesystem import open_root
from dim_ray.store.schema import EVALUATION_TABLE, TABLES, TRIAL_TABLE, VALIDATION_TABLE, Table
from dim_ray.store.tables import allowed_values, read_rows

__all__ = ["Reader", "open_store"]

_CHOOSING = (*CELL, "seed", "accuracy", "validation_accuracy", "stored_bytes", "created_at")


def open_store(storage: str | PathLike[str]) -> Reader:
    """Opens a storage for reading: its root is a folder, or an s3:// or gs:// URI; nothing is read yet."""
    return Reader(fspath(storage))


class Reader:
    """Reads the tables below one root."""

    def __init__(self, root: str) -> None:
        self._root = open_root(root)

    def __repr__(self) -> str:
        return f"Reader({self.root!r})"

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
        return self.rows(EVALUATION_TABLE, **filters)

    def rows(self, table: Table, **filters: Any) -> pd.DataFrame:
        """Returns the rows of one of the tables of `dim_ray.store.schema`, as `evaluations` does."""
        frame: pd.DataFrame = read_rows(self._root, table, filters).to_pandas()
        return frame

    def measured(self, **filters: Any) -> pd.DataFrame:
        """Returns evaluations as `evaluations` does, with the columns that `summarise` and `usual_ipc` take."""
        frame: pd.DataFrame = read_rows(self._root, EVALUATION_TABLE, filters, _CHOOSING).to_pandas()
        return frame

    def validations(self, **filters: Any) -> pd.DataFrame:
        """Returns validations, oldest first: as `evaluations`, with columns of `dim_ray.store.schema.VALIDATIONS`."""
        return self.rows(VALIDATION_TABLE, **filters)

    def trials(self, **filters: Any) -> pd.DataFrame:
        """Returns trials, oldest first: as `evaluations`, with the columns of `dim_ray.store.schema.TRIALS`."""
        return self.rows(TRIAL_TABLE, **filters)

    def pareto(self, *, study: str, objectives: Sequence[str] | None = None) -> pd.DataFrame:
        """Returns the completed trials of a study that no other one of it beats, the most accurate first.

        Args:
            study: Its name.
            objectives: Out of accuracy, generator_bytes and device_seconds. Default: those of the study, where it had
                several; otherwise all of them.

        Returns:
            Rows of `trials`; a generator that several trials led to is there once.

        Raises:
            StorageError: There is no such study, or none of its trials has values.
            UsageError: An objective is unknown.
        """
        rows = self.trials(study=study)
        if rows.empty:
            known = read_rows(self._root, TRIAL_TABLE, {}, ("study",)).to_pandas()["study"].unique()
            there = nearest(study, known) if len(known) else "run python -m dim_ray.tune."
            raise StorageError(f"there are no trials of a study {study!r} under {self.root}; {there}")
        return pareto_set(rows, study_objectives(rows) if objectives is None else tuple(objectives))

    def sql(self, text: str) -> pd.DataFrame:
        """Answers a question in SQL over the tables `evaluations`, `validations` and `trials`, with duckdb.

        Raises:
            UsageError: duckdb isn't installed, or doesn't understand the text.
            StorageError: As `evaluations`.
        """
        return query(text, {table.name: read_rows(self._root, table, {}) for table in TABLES})

    def best(
        self,
        *,
        dataset: str,
        ipc: int,
        architecture: str | None = None,
        protocol: str = "on_the_fly",
        max_bytes: int | None = None,
        max_device_seconds: float | None = None,
    ) -> pd.DataFrame:
        """Ranks generators by their students' mean validation accuracy over seeds; the test set has no say.

        Generators are compared on equal terms: the same data, budget and architecture, those that most of them were
        evaluated with, and of several such the latest. Rows with quirks or soft labels choose nothing: the former
        measure a mistake, and the latter the teachers, too.

        Args:
            dataset: Name of the data set.
            ipc: Images per class; see `dim_ray.store.analysis.selection.usual_ipc`.
            architecture: The students' architecture. Default: what most generators were evaluated with.
            protocol: How the students got their images.
            max_bytes: The most that `stored_bytes` of an evaluation may be. Default: any.
            max_device_seconds: The most that `device_seconds` of a generator's trial may be; one that no trial made
                has no known cost, and is left out. Default: any.

        Returns:
            Rows as `dim_ray.store.analysis.selection.summarise` makes them, the best first: `generator` is a
            fingerprint, `validation_mean` what it was ranked by. At least one.

        Raises:
            StorageError: There is no such evaluation; the message says what there is.
            UsageError: `ipc` isn't a number.
        """
        allowed_values(EVALUATION_TABLE, "ipc", ipc)
        asked = f"{dataset!r} at IPC {ipc}, protocol {protocol!r}" + (f", {architecture}" if architecture else "")
        filters = {"dataset": dataset, "ipc": ipc, "protocol": protocol}
        rows = self._choosing(filters | ({"architecture": architecture} if architecture is not None else {}))
        if rows.empty:
            there = self._choosing({})
            if there.empty and read_rows(self._root, EVALUATION_TABLE, {}, ("id",)).num_rows == 0:
                raise no_evaluations(self.root)
            raise StorageError(f"no generator was evaluated on {asked} under {self.root}; {what_is_there(there)}")
        if max_bytes is not None:
            rows = _at_most("max_bytes", max_bytes, rows, rows["stored_bytes"], asked)
        if max_device_seconds is not None:
            seconds = rows["generator"].map(self._device_seconds())
            rows = _at_most("max_device_seconds", max_device_seconds, rows, seconds, asked)
        return rank(rows)

    def best_cell(
        self, *, dataset: str, ipc: int, architecture: str | None = None, protocol: str = "on_the_fly", **limits: Any
    ) -> dict[str, Any]:
        """Returns the first row of `best`, with the same arguments and errors, as a dictionary."""
        ranked = self.best(dataset=dataset, ipc=ipc, architecture=architecture, protocol=protocol, **limits)
        return {str(name): value for name, value in ranked.iloc[0].items()}

    def best_generator(
        self, *, dataset: str, ipc: int, architecture: str | None = None, protocol: str = "on_the_fly"
    ) -> str:
        """Returns the fingerprint of the generator of `best_cell`; raises as that does."""
        cell = self.best_cell(dataset=dataset, ipc=ipc, architecture=architecture, protocol=protocol)
        return str(cell["generator"])

    def _choosing(self, filters: dict[str, Any]) -> pd.DataFrame:
        """Returns the rows that may choose a generator, with the columns that it takes."""
        plain = {"quirks": NO_QUIRKS, "labels": "hard"}  # again in may_choose, but there after they were read
        rows = self.measured(**{**filters, **plain})
        return rows[may_choose(rows)]

    def _device_seconds(self) -> dict[str, float]:
        """Returns what each generator of a trial has cost: of several trials the dearest, the others found it there."""
        trials: pd.DataFrame = read_rows(self._root, TRIAL_TABLE, {}, ("generator", "device_seconds")).to_pandas()
        cost = trials.dropna().groupby("generator")["device_seconds"].max()
        return {str(name): float(seconds) for name, seconds in cost.items()}


def _at_most(name: str, most: float, rows: pd.DataFrame, values: pd.Series[Any], asked: str) -> pd.DataFrame:
    fitting = rows[values <= most]
    if fitting.empty:
        least = "no generator's is known" if values.isna().all() else f"the least is {values.min():g}"
        raise StorageError(f"{name} is {most:g}; of the generators evaluated on {asked} {least}: allow more.")
    return fitting
