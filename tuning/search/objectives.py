"""What a search is for: one objective, or several with a set of trials that none beats in all of them.

    study = open_study(storage, "digits-0123abcd", config)     # Optuna's, with a direction for each objective
    study.tell(number, values(config.study, result))

`accuracy` is the validation accuracy, maximised. `generator_bytes` is the size of the file that was validated, and
`device_seconds` what the generator takes from nothing: its teachers, its prior and its distillation, from their cards.
That is the same for the same generator, whatever was there already and whichever trial came first. Both are minimised.
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
    "metric_and_mode",
    "objective_name",
    "open_study",
    "row_values",
    "values",
    "worst_costs",
]

_OF_RESULTS = {name: METRIC if name == "accuracy" else axis.column for name, axis in AXES.items()}


def open_study(storage: BaseStorage, name: str, config: Config) -> optuna.Study:
    """Opens Optuna's study, or begins it."""
    objectives = config.study.objectives
    directions = [AXES[objective].direction for objective in objectives]
    study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
    if study.metric_names is None:
        study.set_metric_names(list(objectives))  # for those who look at it
    return study


def metric_and_mode(study: StudyConfig) -> tuple[str | list[str], str | list[str]]:
    """Returns metric and mode as Ray's OptunaSearch takes them: lists where there are several objectives."""
    metrics = [_OF_RESULTS[name] for name in study.objectives]
    modes = [AXES[name].direction[:3] for name in study.objectives]
    return (metrics[0], modes[0]) if len(metrics) == 1 else (metrics, modes)


def objective_name(study: StudyConfig) -> str:
    """Returns in words which accuracy it is."""
    ipcs = study.selection_images_per_class
    of = "IPC" if len(ipcs) == 1 else "mean of IPC"
    return f"{METRIC}, on_the_fly, {of} {', '.join(map(str, ipcs))}"


def generator_costs(work: Workspace, networks: NetworkCosts) -> dict[str, float]:
    """Returns size and device seconds of a trial's generator, by the names of their columns.

    Args:
        work: The trial's workspace.
        networks: Of the teachers and the prior.

    Returns:
        Nothing where the generator isn't stored.
    """
    identity = generator_fingerprint(work)
    if not work.artifacts.exists("generators", identity):
        return {}
    card = work.artifacts.read_card("generators", identity)
    file = card["files"][weights_file(stored_weights(card, work.config.evaluation.weights))]
    distillation = card["wall_seconds"] * work.config.study.workers_per_trial
    return {
        "generator_bytes": file["size_bytes"],
        "alone_device_seconds": distillation + networks.total(network_keys(work)),
    }


def worst_costs() -> dict[str, float]:
    """Returns what Optuna is told of a trial that left no generator: any other is better."""
    return {axis.column: math.inf for axis in AXES.values() if axis.direction == "minimize"}


def values(study: StudyConfig, result: Mapping[str, Any]) -> tuple[float, ...] | None:
    """Returns a trial's objectives in their order; None where one of them wasn't measured.

    Args:
        study: Names the objectives.
        result: The trial's last, with its generator's costs.
    """
    measured = [result.get(_OF_RESULTS[name], math.nan) for name in study.objectives]
    return None if any(map(pd.isna, measured)) else tuple(map(float, measured))


def row_values(study: StudyConfig, row: Mapping[Any, Any]) -> tuple[float, ...] | None:
    """Returns the same out of a trial's row."""
    costs = worst_costs() if row["state"] == "diverged" else row
    return values(study, {**costs, METRIC: row["objective"]})
