"""Find the trials that no other one dominates.

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

__all__ = ["AXES", "Axis", "hypervolumes", "is_pareto", "pareto_set", "study_objectives", "undominated"]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Column and direction of an objective in the table of trials."""

    column: str
    direction: Literal["maximize", "minimize"]


AXES = {
    "accuracy": Axis(column="objective", direction="maximize"),
    "generator_bytes": Axis(column="generator_bytes", direction="minimize"),
    "device_seconds": Axis(column="alone_device_seconds", direction="minimize"),
}
"""By objective of `study.objectives`."""


def pareto_set(trials: pd.DataFrame, objectives: Sequence[str]) -> pd.DataFrame:
    """Return the completed trials that no other one dominates, most accurate first.

    Of trials with the same generator only the earliest counts.

    Raises:
        UsageError: An objective is unknown, or none is given.
        StorageError: No trial has values for all objectives.
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
            "rows from before version 3 of the table lack the generator's bytes and device seconds. Run the study "
            "under another name; stored networks are reused."
        )
    chosen = measured[is_pareto(measured, objectives)]
    return chosen.sort_values(["objective", "number"], ascending=[False, True], ignore_index=True)


def is_pareto(trials: pd.DataFrame, objectives: Sequence[str]) -> pd.Series[bool]:
    """Return which trials no other one dominates; all need a value for every objective."""
    return pd.Series(undominated(_points(trials, objectives)), index=trials.index, dtype=bool)


def undominated(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which points, finite and of shape (n, coordinates), no other one dominates; smaller is better."""
    left = np.lexsort(points.T[::-1])  # a point comes after those that dominate it
    place = 0
    while place < len(left):
        own, others = points[left[place]], points[left]
        left = left[~((own <= others).all(axis=1) & (own < others).any(axis=1))]
        place += 1
    found = np.zeros(len(points), dtype=bool)
    found[left] = True
    return found


def hypervolumes(trials: pd.DataFrame, objectives: Sequence[str], counts: Sequence[int]) -> list[float]:
    """Return the share of the space between the worst and the best values that the first trials dominate.

    Each count of completed trials, in the order of their numbers and with a value for every objective, has its share in
    [0, 1]; 1 means that one trial is the best in all.
    """
    points = _points(trials.sort_values("number"), objectives)
    low, high = points.min(axis=0), points.max(axis=0)
    shares = (points - low) / np.where(high > low, high - low, 1.0)
    return [_dominated_volume(own[undominated(own)]) for own in (shares[:count] for count in counts)]


def study_objectives(trials: pd.DataFrame) -> tuple[str, ...]:
    """Return the objectives of the trials' study if it has several, otherwise all."""
    if not trials.empty:
        asked = json.loads(trials.iloc[-1]["config_json"]).get("study", {}).get("objectives", ())
        if len(asked) > 1:
            return tuple(asked)
    return OBJECTIVES


def _points(trials: pd.DataFrame, objectives: Sequence[str]) -> NDArray[np.float64]:
    """Return the values (n, objectives) with the sign that makes smaller ones better."""
    axes = [AXES[name] for name in objectives]
    signs = [1.0 if axis.direction == "minimize" else -1.0 for axis in axes]
    points: NDArray[np.float64] = trials[[axis.column for axis in axes]].to_numpy(dtype=float) * signs
    return points


def _dominated_volume(points: NDArray[np.float64]) -> float:
    """Return the volume of the unit cube that lies above points of shape (n, coordinates): slices by the last one."""
    if points.shape[1] == 1:
        return float(1.0 - points.min())
    ordered = points[np.argsort(points[:, -1], kind="stable")]
    ends = np.append(ordered[1:, -1], 1.0)
    heights = ends - ordered[:, -1]
    slices = (
        _dominated_volume(ordered[: place + 1, :-1]) if height > 0 else 0.0 for place, height in enumerate(heights)
    )
    return float(sum(height * area for height, area in zip(heights, slices, strict=True)))
