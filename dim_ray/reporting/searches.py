"""Trials grouped by study: what was searched, and what failed.

for study in studies(Reader(root).trials()):
    study.name, study.parameters, pool_scaling(study.trials)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dim_ray.config.data import stored_label

__all__ = ["Study", "datasets_of", "failures", "pool_scaling", "studies", "thinned"]


@dataclass(frozen=True)
class Study:
    """A study's completed trials, and the parameters that differ among them."""

    name: str
    trials: pd.DataFrame
    """Rows with an objective, oldest first."""
    parameters: pd.DataFrame
    """A column per parameter with at least two values, by the index of `trials`."""
    objective: str
    """Name of the objective, in words."""


def studies(trials: pd.DataFrame, most: int) -> list[Study]:
    """Return at most `most` studies, those with the most completed trials that didn't reuse another's result.

    Stopped and diverged trials had another budget, so their objectives can't be compared.
    """
    rows = trials[(trials["state"] == "completed") & trials["objective"].notna() & trials["reused_trial"].isna()]
    sizes = rows.groupby("study").size().sort_values(ascending=False, kind="stable")
    return [_study(str(name), rows[rows["study"] == name]) for name in sizes.index[:most]]


def datasets_of(trials: pd.DataFrame) -> pd.Series[Any]:
    """Return the dataset of each trial according to its study's first configuration, "" if that isn't readable."""
    first = trials.drop_duplicates("study")
    names = {study: stored_label(text) for study, text in zip(first["study"], first["config_json"], strict=True)}
    return trials["study"].map(names)


def pool_scaling(trials: pd.DataFrame) -> pd.DataFrame:
    """Return mean, std and count of the objective by pool_size, for completed trials."""
    ended = trials[trials["state"] == "completed"]
    return ended.groupby("pool_size")["objective"].agg(["mean", "std", "count"]).reset_index()


def failures(trials: pd.DataFrame) -> pd.DataFrame:
    """Return failed and diverged trials, newest first."""
    bad = trials[trials["state"].isin(["failed", "diverged"])]
    return bad.sort_values("created_at", ascending=False, kind="stable")


def thinned(rows: pd.DataFrame, most: int, best: str) -> pd.DataFrame:
    """Return at most `most` rows: half of them the best, the others an even sample of the rest."""
    if len(rows) <= most:
        return rows
    ranked = rows.sort_values(best, ascending=False, kind="stable")
    others = ranked.iloc[most // 2 :]
    places = np.linspace(0, len(others) - 1, most - most // 2).astype(int)
    return pd.concat([ranked.iloc[: most // 2], others.iloc[places]]).sort_index()


def _study(name: str, trials: pd.DataFrame) -> Study:
    chosen = pd.DataFrame([json.loads(text) for text in trials["params_json"]], index=trials.index)
    differing = [name for name in chosen.columns if chosen[name].dropna().astype(str).nunique() > 1]
    names = trials["objective_name"].dropna()
    objective = str(names.iloc[-1]).replace("_", " ") if len(names) else "objective"
    return Study(name, trials, chosen[differing], objective)
