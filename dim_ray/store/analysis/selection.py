"""Which generator is best, out of evaluations as data frames: means over seeds, and what may be compared.

    ranked = rank(Reader(root).evaluations(dataset="digits", ipc=10))
    ranked.iloc[0]["generator"]

Generators are compared on equal terms: the same data, budget and architecture, those that most of them were evaluated
with, and of several such the latest. The test split has no say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from dim_ray.config import NO_QUIRKS, StudyConfig
from dim_ray.errors import StorageError, UsageError

__all__ = [
    "CELL",
    "may_choose",
    "no_evaluations",
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
    "budget_fingerprint",
    "optimiser_steps",
)
"""Columns that evaluations share when they differ by nothing but their seed."""

_TERMS = [name for name in CELL if name not in ("generator", "weights")]


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


def rank(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns the cells of comparable generators, the highest mean validation accuracy first.

    Args:
        rows: Evaluations of one data set, IPC and protocol that `may_choose`; at least one.

    Returns:
        Rows as `summarise` makes them, all on the terms that most generators share.
    """
    group = rows.groupby(_TERMS, dropna=False).ngroup()
    groups = rows.groupby(group).agg(num_generators=("generator", "nunique"), latest=("created_at", "max"))
    comparable = rows[group == groups.sort_values(["num_generators", "latest"]).index[-1]]
    order = ["validation_mean", "generator"]
    return summarise(comparable).sort_values(order, ascending=[False, True], ignore_index=True)


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


def only_dataset(root: str, evaluations: pd.DataFrame) -> str:
    """Returns the name of the data set, where there is one alone.

    Raises:
        StorageError: There are no evaluations.
        UsageError: There are several data sets.
    """
    names = sorted(evaluations["dataset"].unique())
    if not names:
        raise no_evaluations(root)
    if len(names) > 1:
        raise UsageError(f"there are several data sets; choose one with --dataset: {', '.join(names)}.")
    return str(names[0])


def usual_ipc(evaluations: pd.DataFrame, *, dataset: str, protocol: str = "on_the_fly") -> int:
    """Returns the IPC at which generators are compared where none is asked for.

    Args:
        evaluations: Rows as `Reader.evaluations` returns them.
        dataset: Name of the data set.
        protocol: How the students got their images.

    Returns:
        The first of the default of `study.selection_images_per_class`; the largest there is, where there is only
        another one.
    """
    usual = StudyConfig().selection_images_per_class[0]
    is_wanted = (evaluations["dataset"] == dataset) & (evaluations["protocol"] == protocol)
    there = evaluations[is_wanted & may_choose(evaluations)]["ipc"]
    return usual if there.empty or usual in there.to_numpy() else int(there.max())


def may_choose(rows: pd.DataFrame) -> pd.Series[bool]:
    """Returns which rows say something about a generator that another may be compared with."""
    is_plain = (rows["quirks"] == NO_QUIRKS) & (rows["labels"] == "hard")
    return is_plain & rows["generator"].notna() & rows["validation_accuracy"].notna()


def what_is_there(rows: pd.DataFrame) -> str:
    """Says what generators were evaluated with, for the end of an error message."""
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
