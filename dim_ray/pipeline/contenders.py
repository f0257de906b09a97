"""Students that decide between stored generators on the validation split; one row each.

    planned = plan_validations(work, [generator, another])
    for plan in missing_rows(work, VALIDATION_TABLE, planned):
        validate_group(work, [plan])
    read_planned(work, VALIDATION_TABLE, planned)

All generators get the same seeds, so that they are compared in pairs. The search doesn't use these seeds, because a
student that found a generator favours it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dim_ray.core.students.student import StudentResult
from dim_ray.core.training.ports import SILENT, Reporter
from dim_ray.errors import DivergedError
from dim_ray.pipeline.evaluations import load_generators, weights_in_use
from dim_ray.pipeline.rows import circumstances, key_columns
from dim_ray.pipeline.students import StudentPlan, plan_selection, train_group
from dim_ray.pipeline.workspace import Workspace
from dim_ray.store.schema import VALIDATION_TABLE
from dim_ray.store.writer import Writer

__all__ = ["plan_validations", "validate_group"]


def plan_validations(work: Workspace, generators: Sequence[str]) -> list[StudentPlan]:
    """Return `study.contender_seeds` students for each generator, given by fingerprint."""
    study = work.config.study
    indices = range(study.rung_seeds, study.rung_seeds + study.contender_seeds)
    return [
        plan
        for generator in generators
        for plan in plan_selection(work, indices, generator, weights_in_use(work, generator))
    ]


def validate_group(work: Workspace, plans: Sequence[StudentPlan], reporter: Reporter = SILENT) -> list[dict[str, Any]]:
    """Train a group of `group_students` and measure it on the validation split; write its rows and return them.

    A student that diverged has an accuracy of 0, as a trial that diverged has.
    """
    results = train_group(work, plans, load_generators(work, plans), test=False, reporter=reporter)
    rows = [_row(work, plan, result) for plan, result in zip(plans, results, strict=True)]
    Writer(work.config.storage.root).append_validations(rows)
    return rows


def _row(work: Workspace, plan: StudentPlan, result: StudentResult | DivergedError) -> dict[str, Any]:
    accuracy, error, wall_seconds = 0.0, None, 0.0
    if isinstance(result, DivergedError):
        error = str(result)
    else:
        accuracy, wall_seconds = result.validation_accuracy, result.wall_seconds
    return {
        **key_columns(work, VALIDATION_TABLE, plan),
        "accuracy": accuracy,
        "error": error,
        **circumstances(work, plan, wall_seconds),
    }
