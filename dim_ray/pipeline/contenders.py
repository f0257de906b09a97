"""Students that decide between stored generators, on the validation split, and one row for each.

    planned = plan_validations(work, [generator, another])
    for cell in missing_rows(work, VALIDATION_TABLE, planned):
        validate_group(work, [cell])
    read_planned(work, VALIDATION_TABLE, planned)

All generators get the same seeds, so that they are compared pair by pair. The search has used none of these: a student
that found a generator favours the one that was lucky with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dim_ray.core.students.student import StudentResult
from dim_ray.errors import DivergedError
from dim_ray.pipeline.evaluations import load_generators, weights_in_use
from dim_ray.pipeline.rows import circumstances, identity
from dim_ray.pipeline.students import StudentPlan, selection_cells, train_cells
from dim_ray.pipeline.workspace import Workspace
from dim_ray.store.schema import VALIDATION_TABLE
from dim_ray.store.writer import Writer

__all__ = ["plan_validations", "validate_group"]


def plan_validations(work: Workspace, generators: Sequence[str]) -> list[StudentPlan]:
    """Returns `study.contender_seeds` students for each generator.

    Args:
        work: Recipe of the students.
        generators: Fingerprints.
    """
    study = work.config.study
    indices = range(study.selection_seeds, study.selection_seeds + study.contender_seeds)
    return [
        cell
        for generator in generators
        for cell in selection_cells(work, indices, generator, weights_in_use(work, generator))
    ]


def validate_group(work: Workspace, cells: Sequence[StudentPlan]) -> list[dict[str, Any]]:
    """Trains students at once, measures them on the validation split, writes their rows and returns them.

    One that diverged has an accuracy of 0, as a trial that diverged has: its generator can't be relied on.

    Args:
        work: Data and storage.
        cells: What `group_cells` puts together.
    """
    results = train_cells(work, cells, load_generators(work, cells), test=False)
    rows = [_row(work, cell, result) for cell, result in zip(cells, results, strict=True)]
    Writer(work.config.storage.root).append_validations(rows)
    return rows


def _row(work: Workspace, cell: StudentPlan, result: StudentResult | DivergedError) -> dict[str, Any]:
    accuracy, error, wall_seconds = 0.0, None, 0.0
    if isinstance(result, DivergedError):
        error = str(result)
    else:
        accuracy, wall_seconds = result.validation_accuracy, result.wall_seconds
    return {
        **identity(work, VALIDATION_TABLE, cell),
        "accuracy": accuracy,
        "error": error,
        **circumstances(work, cell, wall_seconds),
    }
