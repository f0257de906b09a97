"""Rows of students, in the evaluations or the validations: what identifies one, and which are there.

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
from dim_ray.core.training.precision import resolve_precision
from dim_ray.pipeline.soft_labels import labeller_name
from dim_ray.pipeline.students import StudentPlan
from dim_ray.pipeline.workspace import Workspace
from dim_ray.store.reader import Reader
from dim_ray.store.rows import row_id
from dim_ray.store.schema import Table
from dim_ray.version import __version__

__all__ = ["circumstances", "identity", "missing_rows", "planned_id", "read_planned"]


def missing_rows(work: Workspace, table: Table, planned: Sequence[StudentPlan]) -> list[StudentPlan]:
    """Returns the students that have no row yet.

    Args:
        work: Data and storage.
        table: Of evaluations or validations.
        planned: Students, whatever generators they are of.

    Raises:
        StorageError: The table can't be read.
    """
    present = set(read_planned(work, table, planned)["id"])
    return [cell for cell in planned if planned_id(work, table, cell) not in present]


def read_planned(work: Workspace, table: Table, planned: Sequence[StudentPlan]) -> pd.DataFrame:
    """Returns the rows of planned students, those that are there, with every column of the table; as `missing_rows`."""
    ids = [planned_id(work, table, cell) for cell in planned]
    return Reader(work.config.storage.root).rows(table, dataset=work.dataset.name, id=ids)


def planned_id(work: Workspace, table: Table, cell: StudentPlan) -> str:
    """Returns the id of a student's row: 16 hexadecimal digits."""
    return row_id(table, identity(work, table, cell))


def identity(work: Workspace, table: Table, cell: StudentPlan) -> dict[str, Any]:
    """Returns the columns that say which student it is, in the table's order."""
    columns = {
        "generator": cell.generator,
        "weights": cell.weights,
        "data_fingerprint": work.dataset.digest,
        "dataset": work.dataset.name,
        "ipc": cell.images_per_class,
        "protocol": cell.protocol,
        "architecture": cell.architecture,
        "seed": cell.seed,
        "split": "test",
        "preset": cell.preset,
        "quirks": join_quirks(cell.recipe.quirks),
        "labels": cell.recipe.labels,
        "labeller": labeller_name(cell.teachers),
        "budget_fingerprint": fingerprint(cell.recipe),
        "code_version": __version__,
    }
    return {name: columns[name] for name in table.id_columns}


def circumstances(work: Workspace, cell: StudentPlan, wall_seconds: float) -> dict[str, Any]:
    """Returns the columns that say for which study, how, where and how long a student was trained.

    Args:
        work: Study, and data on the device.
        cell: The student.
        wall_seconds: That it took, or an equal share of those that were trained at once.
    """
    # What says which students there are is in columns of its own.
    grid = ("images_per_class", "protocols", "weights", "num_seeds", "seed", "preset", "students_at_once")
    recipe = {name: value for name, value in to_dict(cell.recipe).items() if name not in grid}
    device = work.dataset.train.images.device
    return {
        "study": work.study,
        "recipe_json": json.dumps(recipe),
        "wall_seconds": wall_seconds,
        "device": str(device),
        "precision": resolve_precision(cell.recipe.precision, device),
        "num_threads": torch.get_num_threads(),
        "host": platform.node(),
        "torch_version": torch.__version__,
    }
