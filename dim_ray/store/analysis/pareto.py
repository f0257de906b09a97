"""The Pareto set of trials: those that no other one beats in one objective without being worse in another.

pareto_set(Reader(root).trials(study="digits-small"), ("accuracy", "generator_bytes"))
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dim_ray.config import OBJECTIVES
from dim_ray.errors import StorageError, UsageError, nearest

__all__ = ["AXES", "Axis", "is_pareto", "pareto_set", "study_objectives", "undominated"]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Where an objective is in the table of trials."""

    column: str
    direction: Literal["maximize", "minimize"]


AXES = {
    "accuracy": Axis(column="objective", direction="maximize"),
    "generator_bytes": Axis(column="generator_bytes", direction="minimize"),
    "device_seconds": Axis(column="alone_device_seconds", direction="minimize"),
}
"""Of every objective of `study.objectives`."""


def pareto_set(trials: pd.DataFrame, objectives: Sequence[str]) -> pd.DataFrame:
    """Returns the completed trials that no other one beats, the most accurate first.

    A generator that several trials led to is there once, with the earliest of them.

    Args:
        trials: Rows as `Reader.trials` returns them.
        objectives: Out of `study.objectives`; at least one.

    Raises:
        UsageError: An objective is unknown, or none is given.
        StorageError: No trial has values for all of them.
    """
    if not objectives:
        raise UsageError(f"no objective is given; allowed: {', '.join(OBJECTIVES)}.")
    for name in objectives:
        if name not in AXES:
            raise UsageError(f"{name!r} is no objective; {nearest(name, OBJECTIVES)}")
    columns = [AXES[name].column for name in objectives]
    completed = trials[trials["state"] == "completed"].sort_values(["study", "number"], ignore_index=True)
    measured = completed.dropna(subset=columns).drop_duplicates("generator")
    if measured.empty:
        raise StorageError(
            f"of {len(trials)} trials, {len(completed)} completed, and none has a value for {', '.join(objectives)}: "
            "rows that were written before version 3 of the table know neither bytes nor device seconds of their "
            "generator. Run the study under another name: what is stored is measured, and not made again."
        )
    chosen = measured[is_pareto(measured, objectives)]
    return chosen.sort_values(["objective", "number"], ascending=[False, True], ignore_index=True)


def is_pareto(trials: pd.DataFrame, objectives: Sequence[str]) -> pd.Series[bool]:
    """Returns which trials no other one beats; those that are equal beat none of each other.

    Args:
        trials: With a value for every objective.
        objectives: Names out of `AXES`.
    """
    axes = [AXES[name] for name in objectives]
    signs = [1.0 if axis.direction == "minimize" else -1.0 for axis in axes]
    points = trials[[axis.column for axis in axes]].to_numpy(dtype=float) * signs  # smaller is better in all
    return pd.Series(undominated(points), index=trials.index, dtype=bool)


def undominated(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Returns which points no other one beats: is smaller in one coordinate than, and in none larger.

    Args:
        points: Shape [n, coordinates], finite.

    Returns:
        Shape [n]. Points that are equal beat none of each other.
    """
    left = np.lexsort(points.T[::-1])  # so that what beats a point comes before it
    place = 0
    while place < len(left):
        own, others = points[left[place]], points[left]
        left = left[~((own <= others).all(axis=1) & (own < others).any(axis=1))]
        place += 1
    found = np.zeros(len(points), dtype=bool)
    found[left] = True
    return found


def study_objectives(trials: pd.DataFrame) -> tuple[str, ...]:
    """Returns what the search of some trials was for, where that is several objectives; otherwise all there are."""
    if not trials.empty:
        asked = json.loads(trials.iloc[-1]["config_json"]).get("study", {}).get("objectives", ())
        if len(asked) > 1:
            return tuple(asked)
    return OBJECTIVES
