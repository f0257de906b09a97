"""Validation of a generator during its distillation: worker 0 measures, and all workers learn the epoch.

validate_at(work, 3, generator, collective)     # {"validated_epoch": 3, "validation_accuracy": 0.93}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dim_ray.core.generator.networks import Generator
from dim_ray.core.training.ports import SILENT, Collective, Reporter
from dim_ray.errors import DivergedError
from dim_ray.pipeline.students import validate
from dim_ray.pipeline.workspace import Workspace

__all__ = ["WALL_SECONDS", "at_rungs", "validate_at", "validation_in"]

WALL_SECONDS = "wall_seconds"
"""Metric: time of the distillation so far, in all processes that worked on it."""

_EPOCH = "validated_epoch"


def at_rungs(work: Workspace) -> Workspace:
    """Return the workspace whose validations are those of a rung, with more students."""
    study = work.config.study
    return replace(work, config=replace(work.config, study=replace(study, selection_seeds=study.rung_seeds)))


def validate_at(
    work: Workspace,
    epoch: int,
    generator: Generator | None,
    collective: Collective,
    reporter: Reporter = SILENT,
) -> Mapping[str, float]:
    """Validate the generator of an epoch on worker 0, the only one that needs it, while all wait.

    Returns:
        The epoch and, on worker 0, its measurements.

    Raises:
        DivergedError: A student diverged; on all workers.
    """
    measured: Mapping[str, float] = {}
    error = None
    if generator is not None and collective.rank == 0:
        try:
            measured = validate(work, generator, reporter)
        except DivergedError as diverged:
            error = diverged
    if collective.any(error is not None):
        raise error or DivergedError("the student that validates the generator diverged on worker 0.")
    return {_EPOCH: epoch, **measured}


def validation_in(metrics: Mapping[str, float]) -> dict[str, float] | None:
    """Return the metrics of a report that validates its epoch; None if it doesn't."""
    if _EPOCH not in metrics:
        return None
    return {name: value for name, value in metrics.items() if name != _EPOCH}
