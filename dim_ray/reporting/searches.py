"""Trials as studies: what was searched, what it cost, and what failed.

for study in studies(Reader(root).trials()):
    study.name, study.parameters, pool_scaling(study.trials)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dim_ray.config import DataConfig
from dim_ray.errors import DimError

__all__ = ["Study", "datasets_of", "failures", "pool_scaling", "studies", "thinned"]

_SEARCHED = ("pool_size", "capacity", "matching_weight", "adversarial_weight")  # columns of every row


@dataclass(frozen=True)
class Study:
    """One study's trials that were completed and measured, and the parameters that differ among them."""

    name: str
    trials: pd.DataFrame
    """Rows with an objective, the parameters of `parameters` among their columns; oldest first."""
    parameters: pd.DataFrame
    """By the index of `trials`, a column for each parameter with two values or more."""
    objective: str
    """What the objective is, in words."""


def studies(trials: pd.DataFrame, most: int) -> list[Study]:
    """Returns the studies with the most trials that were completed, measured and run by themselves.

    What was stopped or diverged had another budget, so its objective isn't one to compare.

    Args:
        trials: Rows as `Reader.trials` returns them.
        most: Of how many studies.
    """
    is_ended = trials["state"] == "completed"
    rows = trials[is_ended & trials["objective"].notna() & trials["reused_trial"].isna()]
    sizes = rows.groupby("study").size().sort_values(ascending=False, kind="stable")
    return [_study(str(name), rows[rows["study"] == name]) for name in sizes.index[:most]]


def datasets_of(trials: pd.DataFrame) -> pd.Series[Any]:
    """Returns the dataset of each trial, by what its study's first configuration says; "" where it says nothing."""
    first = trials.drop_duplicates("study")
    names = {study: _dataset(text) for study, text in zip(first["study"], first["config_json"], strict=True)}
    return trials["study"].map(names)


def pool_scaling(trials: pd.DataFrame) -> pd.DataFrame:
    """Returns mean, std and n of the objective by pool_size, of completed trials."""
    ended = trials[trials["state"] == "completed"]
    return ended.groupby("pool_size")["objective"].agg(["mean", "std", "count"]).reset_index()


def failures(trials: pd.DataFrame) -> pd.DataFrame:
    """Returns trials that failed or diverged, the newest first."""
    bad = trials[trials["state"].isin(["failed", "diverged"])]
    return bad.sort_values("created_at", ascending=False, kind="stable")


def thinned(rows: pd.DataFrame, most: int, best: str) -> pd.DataFrame:
    """Returns all rows, or where they are more than `most`, the better half of that and evenly some of the others."""
    if len(rows) <= most:
        return rows
    ranked = rows.sort_values(best, ascending=False, kind="stable")
    others = ranked.iloc[most // 2 :]
    places = np.linspace(0, len(others) - 1, most - most // 2).astype(int)
    return pd.concat([ranked.iloc[: most // 2], others.iloc[places]]).sort_index()


def _study(name: str, trials: pd.DataFrame) -> Study:
    chosen = pd.DataFrame([json.loads(text) for text in trials["params_json"]], index=trials.index)
    if chosen.empty:  # rows that don't say what was chosen: the columns that every trial has
        chosen = trials[list(_SEARCHED)]
    differing = [column for column in chosen.columns if _num_values(chosen[column]) > 1]
    names = trials["objective_name"].dropna()
    objective = str(names.iloc[-1]).replace("_", " ") if len(names) else "objective"
    return Study(name, trials, chosen[differing], objective)


def _num_values(column: pd.Series[Any]) -> int:
    return int(column.dropna().astype(str).nunique())


def _dataset(config_json: str) -> str:
    try:
        return DataConfig(**json.loads(config_json)["data"]).label
    except (KeyError, TypeError, ValueError, DimError):  # of a version with other fields
        return ""
