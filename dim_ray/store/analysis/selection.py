"""Find the best generator among evaluations: means over seeds, and which of them may be compared.

    ranked = rank(Reader(root).evaluations(dataset="digits", ipc=10))
    ranked.iloc[0]["generator"]

Generators are compared on equal terms: the data, budget and architecture that most of them share, and of several such
the latest. The test split isn't used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from dim_ray.config import NO_QUIRKS, StudyConfig
from dim_ray.errors import StorageError, UsageError, listed, nearest

__all__ = [
    "CELL",
    "TERMS",
    "is_plain",
    "may_choose",
    "no_evaluations",
    "none_chosen",
    "only_dataset",
    "rank",
    "summarise",
    "terms",
    "usual_ipc",
    "what_is_there",
]

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
    "candidates",
    "latent_steps",
    "budget_fingerprint",
    "optimiser_steps",
)
"""Columns that evaluations share if they differ only in their seed."""

TERMS = [name for name in CELL if name not in ("generator", "weights")]
"""Columns that comparable generators share."""


def summarise(evaluations: pd.DataFrame, **more: tuple[str, str]) -> pd.DataFrame:
    """Return means and standard deviations over seeds.

    If two versions of the code measured the same seed, the later row counts: rows come oldest first.

    Returns:
        One row per cell: the columns `CELL`, mean and std of accuracy (std with n - 1; NaN if n is 1), validation_mean,
        and n; and `more`, each a column of the evaluations and what becomes of it.
    """
    latest = evaluations.drop_duplicates([*CELL, "seed"], keep="last")
    return (
        latest.groupby(list(CELL), dropna=False)
        .agg(
            mean=("accuracy", "mean"),
            std=("accuracy", "std"),
            validation_mean=("validation_accuracy", "mean"),
            n=("accuracy", "size"),
            **more,
        )
        .reset_index()
    )


def rank(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the cells of comparable generators, as of `summarise`, highest mean validation accuracy first.

    There is at least one row, and all of them `may_choose` and have one dataset, IPC and protocol.
    """
    group = rows.groupby(TERMS, dropna=False).ngroup()
    groups = rows.groupby(group).agg(num_generators=("generator", "nunique"), latest=("created_at", "max"))
    comparable = rows[group == groups.sort_values(["num_generators", "latest"]).index[-1]]
    order = ["validation_mean", "generator"]
    return summarise(comparable).sort_values(order, ascending=[False, True], ignore_index=True)


def terms(cell: Mapping[Any, Any]) -> str:
    """Return the quirks of a row or cell and what teachers did for it in words, "" for neither."""
    quirks = "reference" if cell["preset"] == "reference" else cell["quirks"].replace("+", " + ")
    quirks = "" if cell["quirks"] == NO_QUIRKS else quirks
    labels = "soft labels" if cell["labels"] == "soft" else ""
    chosen = "" if pd.isna(cell["candidates"]) else f"one of {int(cell['candidates'])} candidates"
    matched = "" if pd.isna(cell["latent_steps"]) else f"{int(cell['latent_steps'])} latent steps"
    return ", ".join(part for part in (quirks, labels, chosen, matched) if part)


def no_evaluations(root: str) -> StorageError:
    """Return the error for a storage without evaluations."""
    return StorageError(
        f"no evaluations under {root}: run python -m dim_ray.tune, or measure an existing generator with "
        "python -m dim_ray.evaluate PATH."
    )


def none_chosen(root: str, evaluations: pd.DataFrame, filters: Mapping[str, Any]) -> StorageError:
    """Return the error for values by column that none of the evaluations has."""
    for column, value in filters.items():
        there = [str(known) for known in evaluations[column].unique()]
        if str(value) not in there:
            return StorageError(f"no evaluations with {column} {value} under {root}; {nearest(str(value), there)}")
    return StorageError(f"no evaluations under {root} have all of {dict(filters)}; ask for less.")


def only_dataset(root: str, evaluations: pd.DataFrame) -> str:
    """Return the name of the only dataset, or raise an error if there is none or several."""
    names = sorted(evaluations["dataset"].unique())
    if not names:
        raise no_evaluations(root)
    if len(names) > 1:
        raise UsageError(f"there are several datasets; choose one with --dataset: {listed(names, 20)}.")
    return str(names[0])


def usual_ipc(evaluations: pd.DataFrame, *, dataset: str, protocol: str = "on_the_fly") -> int:
    """Return the IPC at which generators are compared by default.

    That is the first default of `study.selection_images_per_class`, or the largest IPC if it wasn't measured.
    """
    usual = StudyConfig().selection_images_per_class[0]
    is_wanted = (evaluations["dataset"] == dataset) & (evaluations["protocol"] == protocol)
    there = evaluations[is_wanted & may_choose(evaluations)]["ipc"]
    return usual if there.empty or usual in there.to_numpy() else int(there.max())


def may_choose(rows: pd.DataFrame) -> pd.Series[bool]:
    """Return which rows may choose a generator: those with validation, without quirks and the help of teachers."""
    return is_plain(rows) & rows["generator"].notna() & rows["validation_accuracy"].notna()


def is_plain(rows: pd.DataFrame) -> pd.Series[bool]:
    """Return which rows or cells have neither quirks nor the help of teachers."""
    is_alone = rows["candidates"].isna() & rows["latent_steps"].isna()
    return is_alone & (rows["quirks"] == NO_QUIRKS) & (rows["labels"] == "hard")


def what_is_there(rows: pd.DataFrame) -> str:
    """Return what generators were evaluated with, for the end of an error message."""
    if rows.empty:
        return (
            "there are only rows of real images, or with quirks or the help of teachers, which don't choose a "
            "generator: run python -m dim_ray.tune, or python -m dim_ray.evaluate PATH."
        )
    there = [
        f"{dataset} (IPC {_joined(group['ipc'])}; {_joined(group['protocol'])}; {_joined(group['architecture'])})"
        for dataset, group in rows.groupby("dataset")
    ]
    return f"there is {listed(there)}."


def _joined(column: pd.Series[Any]) -> str:
    return listed(sorted(column.unique()))
