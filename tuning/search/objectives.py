"""The objectives of a search, in Ray Tune's results, in Optuna and in rows.

    study = open_study(storage, "digits-0123abcd", config)     # Optuna's, with a direction for each objective
    study.tell(number, values(config.study, result))

`accuracy` is the validation accuracy. `generator_bytes` is the size of the validated file. `device_seconds` is the cost
of making the generator from nothing: its teachers, prior and distillation, from their cards, so that it doesn't depend
on what was reused. docs/search.md describes them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import optuna
import pandas as pd
from optuna.storages import BaseStorage

from dim_ray.config import Config, StudyConfig
from dim_ray.pipeline.generators import generator_fingerprint, stored_weights, weights_file
from dim_ray.pipeline.workspace import Workspace
from dim_ray.store.analysis.pareto import AXES
from tuning.cost import NetworkCosts, network_keys
from tuning.search.schedulers import METRIC

__all__ = [
    "generator_costs",
    "objective_name",
    "open_study",
    "row_values",
    "values",
    "worst_costs",
]

_FORMAT, _VERSION = "dim_ray_format", 2  # of Optuna's parameters
_OF_RESULTS = {name: METRIC if name == "accuracy" else axis.column for name, axis in AXES.items()}


def open_study(storage: BaseStorage, name: str, config: Config) -> optuna.Study:
    """Open Optuna's study, or create it.

    One of an older version, whose parameters are other ones for Optuna, begins anew: `settle` adds what the rows know.
    """
    objectives = config.study.objectives
    directions = [AXES[objective].direction for objective in objectives]
    study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
    if study.user_attrs.get(_FORMAT) != _VERSION:
        if study.get_trials(deepcopy=False):
            optuna.delete_study(study_name=name, storage=storage)
            study = optuna.create_study(storage=storage, study_name=name, directions=directions)
        study.set_user_attr(_FORMAT, _VERSION)
        study.set_metric_names(list(objectives))  # for dashboards
    return study


def objective_name(study: StudyConfig) -> str:
    """Return which accuracy the search maximises, in words."""
    ipcs = study.selection_images_per_class
    of = "IPC" if len(ipcs) == 1 else "mean of IPC"
    return f"{METRIC}, on_the_fly, {of} {', '.join(map(str, ipcs))}"


def generator_costs(work: Workspace, networks: NetworkCosts) -> dict[str, float]:
    """Return size and device seconds of a trial's generator by column, or nothing if it isn't stored."""
    fingerprint = generator_fingerprint(work)
    if not work.artifacts.exists("generators", fingerprint):
        return {}
    card = work.artifacts.read_card("generators", fingerprint)
    file = card["files"][weights_file(stored_weights(card, work.config.evaluation.weights))]
    distillation = card["wall_seconds"] * work.config.study.workers_per_trial
    return {
        "generator_bytes": file["size_bytes"],
        "alone_device_seconds": distillation + networks.total(network_keys(work)),
    }


def worst_costs() -> dict[str, float]:
    """Return the costs of a trial without a generator: worse than any other."""
    return {axis.column: math.inf for axis in AXES.values() if axis.direction == "minimize"}


def values(study: StudyConfig, result: Mapping[str, Any]) -> tuple[float, ...] | None:
    """Return a trial's objectives in their order, from its last result; None if one wasn't measured."""
    measured = [result.get(_OF_RESULTS[name], math.nan) for name in study.objectives]
    return None if any(map(pd.isna, measured)) else tuple(map(float, measured))


def row_values(study: StudyConfig, row: Mapping[Any, Any]) -> tuple[float, ...] | None:
    """Return a trial's objectives in their order, from its row; None if one wasn't measured."""
    costs = worst_costs() if row["state"] == "diverged" else row
    return values(study, {**costs, METRIC: row["objective"]})
