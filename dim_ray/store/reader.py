"""Read rows as pandas data frames, and rank generators.

    store = dim_ray.open_store("./dim_storage")
    store.evaluations(dataset="digits", ipc=[10, 50])
    store.best(dataset="digits", ipc=10, max_bytes=100_000)
    store.pareto(study="digits-0123abcd", objectives=["accuracy", "generator_bytes"])
    store.sql("select dataset, avg(accuracy) from evaluations group by dataset")

Unlike `pandas.read_parquet`, it returns each row once during compaction, refuses rows of a newer schema, names damaged
files, and knows the columns of an empty table.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from typing import Any

import pandas as pd

from dim_ray.errors import StorageError, UsageError, nearest
from dim_ray.store.analysis.pareto import pareto_set, study_objectives
from dim_ray.store.analysis.selection import (
    CELL,
    may_choose,
    no_evaluations,
    only_dataset,
    rank,
    usual_ipc,
    what_is_there,
)
from dim_ray.store.files.filesystem import open_root
from dim_ray.store.schema import EVALUATION_TABLE, TABLES, TRIAL_TABLE, VALIDATION_TABLE, Table
from dim_ray.store.tables import allowed_values, read_rows, stored_ids

__all__ = ["Reader", "open_store"]

_CHOOSING = (*CELL, "seed", "accuracy", "validation_accuracy", "stored_bytes", "created_at")


def open_store(storage: str | PathLike[str]) -> Reader:
    """Open a storage, a folder or an s3:// or gs:// URI, for reading."""
    return Reader(fspath(storage))


class Reader:
    """Read the tables of a storage."""

    def __init__(self, root: str) -> None:
        self._root = open_root(root)

    def __repr__(self) -> str:
        return f"Reader({self.root!r})"

    @property
    def root(self) -> str:
        """Absolute local path, or URI."""
        return self._root.uri

    def evaluations(self, **filters: Any) -> pd.DataFrame:
        """Return evaluations, oldest first.

        Args:
            **filters: A value or a list of values by column; None means null.

        Returns:
            All columns of `dim_ray.store.schema.EVALUATIONS`; no rows if none fit.

        Raises:
            UsageError: There is no such column, or a value has another type than its column.
            StorageError: A file is damaged, of a newer version, or can't be read; it is named.
        """
        return self.rows(EVALUATION_TABLE, **filters)

    def validations(self, **filters: Any) -> pd.DataFrame:
        """Return validations, with the columns of `dim_ray.store.schema.VALIDATIONS`; see `evaluations`."""
        return self.rows(VALIDATION_TABLE, **filters)

    def trials(self, **filters: Any) -> pd.DataFrame:
        """Return trials, with the columns of `dim_ray.store.schema.TRIALS`; see `evaluations`."""
        return self.rows(TRIAL_TABLE, **filters)

    def rows(self, table: Table, **filters: Any) -> pd.DataFrame:
        """Return the rows of a table of `dim_ray.store.schema`; see `evaluations`."""
        return self._read(table, None, filters)

    def ids(self, table: Table, **filters: Any) -> set[str]:
        """Return the ids of rows; see `dim_ray.store.tables.stored_ids`, and `evaluations`."""
        return stored_ids(self._root, table, filters)

    def measured(self, **filters: Any) -> pd.DataFrame:
        """Return evaluations with only the columns that `summarise` and `usual_ipc` need; see `evaluations`."""
        return self._read(EVALUATION_TABLE, _CHOOSING, filters)

    def pareto(self, *, study: str, objectives: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the completed trials of a study that no other one dominates, most accurate first.

        Args:
            study: Name of the study.
            objectives: Some of accuracy, generator_bytes and device_seconds. Default: the study's own if it has
                several, otherwise all.

        Returns:
            Rows of `trials`, one per generator.

        Raises:
            StorageError: There is no such study, or none of its trials has values.
            UsageError: An objective is unknown.
        """
        rows = self.trials(study=study)
        if rows.empty:
            known = self._read(TRIAL_TABLE, ("study",), {})["study"].unique()
            there = nearest(study, known) if len(known) else "run python -m dim_ray.tune."
            raise StorageError(f"there are no trials of a study {study!r} under {self.root}; {there}")
        return pareto_set(rows, study_objectives(rows) if objectives is None else tuple(objectives))

    def sql(self, text: str) -> pd.DataFrame:
        """Run SQL over the tables `evaluations`, `validations` and `trials`, with duckdb.

        Raises:
            UsageError: duckdb isn't installed, or rejects the text.
            StorageError: See `evaluations`.
        """
        try:
            import duckdb
        except ImportError as error:
            raise UsageError(
                "SQL needs duckdb, which isn't installed: pip install 'dim-ray[sql]'. pandas reads the same rows: "
                "dim_ray.open_store(root).evaluations()."
            ) from error
        with duckdb.connect() as connection:
            for table in TABLES:
                connection.register(table.name, read_rows(self._root, table, {}))
            try:
                answer = connection.sql(text)
                if answer is None:
                    raise UsageError(f"the SQL {text!r} asks for no rows; write a select.")
                frame: pd.DataFrame = answer.to_arrow_table().to_pandas()
            except duckdb.Error as error:
                raise UsageError(f"the SQL can't be answered: {error}") from error
        return frame

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
        """Rank generators by their students' mean validation accuracy over seeds.

        Generators are compared on equal terms: the data, budget and architecture that most of them share, and of
        several such the latest. Rows with quirks or the help of teachers don't count: quirks measure a mistake, and
        soft labels, candidates and latent steps measure the teachers too.

        Args:
            dataset: Name of the dataset.
            ipc: Images per class; see `dim_ray.store.analysis.selection.usual_ipc`.
            architecture: Students' architecture. Default: the one that most generators were evaluated with.
            protocol: How the students got their images.
            max_bytes: Highest `stored_bytes` of an evaluation. Default: any.
            max_device_seconds: Highest `device_seconds` of a generator's trial; generators without a trial are left
                out. Default: any.

        Returns:
            Rows of `dim_ray.store.analysis.selection.summarise`, best `validation_mean` first; at least one.

        Raises:
            StorageError: There is no such evaluation; the message says what there is.
            UsageError: `ipc` isn't a number.
        """
        allowed_values(EVALUATION_TABLE, "ipc", ipc)
        asked, filters = f"{dataset!r} at IPC {ipc}, protocol {protocol!r}", {}
        if architecture is not None:
            asked, filters = f"{asked}, {architecture}", {"architecture": architecture}
        rows = self._choosing(dataset=dataset, ipc=ipc, protocol=protocol, **filters)
        if rows.empty:
            there = self._choosing()
            if there.empty and self._read(EVALUATION_TABLE, ("id",), {}).empty:
                raise no_evaluations(self.root)
            raise StorageError(f"no generator was evaluated on {asked} under {self.root}; {what_is_there(there)}")
        if max_bytes is not None:
            rows = _at_most("max_bytes", max_bytes, rows, rows["stored_bytes"], asked)
        if max_device_seconds is not None:
            seconds = rows["generator"].map(self._device_seconds())
            rows = _at_most("max_device_seconds", max_device_seconds, rows, seconds, asked)
        return rank(rows)

    def best_cell(
        self, *, dataset: str | None = None, ipc: int | None = None, protocol: str = "on_the_fly", **asked: Any
    ) -> dict[str, Any]:
        """Return the first row of `best` as a dictionary, by default of the only dataset and its `usual_ipc`."""
        if dataset is None or ipc is None:
            every = self.measured(**({} if dataset is None else {"dataset": dataset}))
            dataset = dataset or only_dataset(self.root, every)
            ipc = usual_ipc(every, dataset=dataset, protocol=protocol) if ipc is None else ipc
        best = self.best(dataset=dataset, ipc=ipc, protocol=protocol, **asked).iloc[0]
        return {str(name): value for name, value in best.items()}

    def _read(self, table: Table, columns: Sequence[str] | None, filters: dict[str, Any]) -> pd.DataFrame:
        frame: pd.DataFrame = read_rows(self._root, table, filters, columns).to_pandas()
        return frame

    def _choosing(self, **filters: Any) -> pd.DataFrame:
        """Return the rows that may choose a generator."""
        rows = self.measured(**filters)
        return rows[may_choose(rows)]

    def _device_seconds(self) -> dict[str, float]:
        """Return the cost of each generator: of several trials the highest, since the others reused its result."""
        trials = self._read(TRIAL_TABLE, ("generator", "device_seconds"), {})
        cost = trials.dropna().groupby("generator")["device_seconds"].max()
        return {str(name): float(seconds) for name, seconds in cost.items()}


def _at_most(name: str, most: float, rows: pd.DataFrame, values: pd.Series[Any], asked: str) -> pd.DataFrame:
    fitting = rows[values <= most]
    if fitting.empty:
        least = "no generator's is known" if values.isna().all() else f"the least is {values.min():g}"
        raise StorageError(f"{name} is {most:g}; of the generators evaluated on {asked} {least}: allow more.")
    return fitting
