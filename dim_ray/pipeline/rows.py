"""Rows of planned students in the evaluations or the validations: their ids, and which ones exist.

planned = plan_evaluations(work, generator)
evaluate_group(work, missing_rows(work, EVALUATION_TABLE, planned))
read_planned(work, EVALUATION_TABLE, planned)
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch

from dim_ray.config import fingerprint, join_quirks, to_dict
from dim_ray.core.training.precision import stated_precision
from dim_ray.pipeline.soft_labels import labeller_name
from dim_ray.pipeline.students import StudentPlan
from dim_ray.pipeline.workspace import Workspace
from dim_ray.store.reader import Reader
from dim_ray.store.rows import row_id
from dim_ray.store.schema import Table
from dim_ray.version import __version__

__all__ = ["circumstances", "key_columns", "missing_rows", "planned_id", "read_planned"]


def missing_rows(work: Workspace, table: Table, planned: Sequence[StudentPlan]) -> list[StudentPlan]:
    """Return the students that have no row yet."""
    plans = {planned_id(work, table, plan): plan for plan in planned}
    present = Reader(work.config.storage.root).ids(table, dataset=work.dataset.name, id=list(plans))
    return [plan for name, plan in plans.items() if name not in present]


def read_planned(work: Workspace, table: Table, planned: Sequence[StudentPlan]) -> pd.DataFrame:
    """Return the existing rows of planned students, with every column of the table."""
    ids = [planned_id(work, table, plan) for plan in planned]
    return Reader(work.config.storage.root).rows(table, dataset=work.dataset.name, id=ids)


def planned_id(work: Workspace, table: Table, plan: StudentPlan) -> str:
    """Return the id of a student's row: 16 hexadecimal digits."""
    return row_id(table, key_columns(work, table, plan))


def key_columns(work: Workspace, table: Table, plan: StudentPlan) -> dict[str, Any]:
    """Return the columns that a row's id is made of, in the table's order."""
    columns = {
        "generator": plan.generator,
        "weights": plan.weights,
        "data_fingerprint": work.dataset.digest,
        "dataset": work.dataset.name,
        "ipc": plan.images_per_class,
        "protocol": plan.protocol,
        "architecture": plan.architecture,
        "seed": plan.seed,
        "split": "test",
        "preset": plan.preset,
        "quirks": join_quirks(plan.recipe.quirks),
        "labels": plan.recipe.labels,
        "labeller": labeller_name(plan.teachers),
        "budget_fingerprint": fingerprint(plan.recipe),
        "code_version": __version__,
    }
    return {name: columns[name] for name in table.id_columns}


def circumstances(work: Workspace, plan: StudentPlan, wall_seconds: float) -> dict[str, Any]:
    """Return the columns that say for which study, how, where and how long a student was trained."""
    # The grid's fields have columns of their own.
    grid = ("images_per_class", "protocols", "weights", "num_seeds", "seed", "preset", "students_at_once")
    recipe = {name: value for name, value in to_dict(plan.recipe).items() if name not in grid}
    device = work.dataset.device
    return {
        "study": work.study,
        "recipe_json": json.dumps(recipe),
        "wall_seconds": wall_seconds,
        "device": str(device),
        "precision": stated_precision(plan.recipe.precision, device),
        "num_threads": torch.get_num_threads(),
        "host": platform.node(),
        "torch_version": torch.__version__,
    }
