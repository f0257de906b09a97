"""Validation of a generator during its distillation: worker 0 measures, and all workers learn the epoch.

rungs = Rungs(HereValidator(at_rungs(work)), collective)
rungs.begin(3, generator)
rungs.take(wait=False)      # {"validated_epoch": 3, "validation_accuracy": 0.93}, or {} until it is there
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from dim_ray.core.generator.networks import Generator
from dim_ray.core.training.ports import SILENT, Collective, Reporter
from dim_ray.errors import DivergedError
from dim_ray.pipeline.students import validate
from dim_ray.pipeline.workspace import Workspace

__all__ = ["WALL_SECONDS", "HereValidator", "Rungs", "Validator", "at_rungs", "validate_here", "validation_in"]

WALL_SECONDS = "wall_seconds"
"""Metric: time of the distillation so far, in all processes that worked on it."""

_EPOCH = "validated_epoch"
_OF_RUNG = {"validation_accuracy", "validation_std", WALL_SECONDS}


class Validator(Protocol):
    """Measures generators, one after another."""

    def begin(self, generator: Generator, reporter: Reporter = SILENT) -> None:
        """Start measuring a generator as it is now; it may be trained further meanwhile.

        The reporter receives the progress of students that training waits for.
        """

    def take(self, *, wait: bool) -> Mapping[str, float] | None:
        """Return the measurements, once, or raise a DivergedError; None if they aren't there and `wait` is false."""


class HereValidator:
    """A Validator in this process: training waits for it."""

    def __init__(self, work: Workspace) -> None:
        self._work = work
        self._found: Mapping[str, float] | DivergedError | None = None

    def begin(self, generator: Generator, reporter: Reporter = SILENT) -> None:
        try:
            self._found = validate(self._work, generator, reporter)
        except DivergedError as error:
            self._found = error

    def take(self, *, wait: bool) -> Mapping[str, float] | None:
        found, self._found = self._found, None
        if isinstance(found, DivergedError):
            raise found
        return found


class Rungs:
    """Validations of a generator that several workers train together; all of them make the same calls.

    Only worker 0's validator is used; None on all workers validates nothing.
    """

    def __init__(self, validator: Validator | None, collective: Collective) -> None:
        self._validator = validator
        self._collective = collective
        self._epoch: int | None = None  # being validated

    def begin(self, epoch: int, generator: Generator | None, reporter: Reporter = SILENT) -> None:
        """Start validating worker 0's generator of an epoch; the one before it has been taken."""
        if self._validator is None:
            return
        self._epoch = epoch
        if self._collective.rank == 0 and generator is not None:
            self._validator.begin(generator, reporter)

    def take(self, *, wait: bool) -> Mapping[str, float]:
        """Return the epoch and, on worker 0, its measurements; nothing if they aren't there yet.

        Raises:
            DivergedError: A student diverged; on all workers.
        """
        if self._epoch is None or self._validator is None:
            return {}
        measured: Mapping[str, float] = {}
        error = None
        if self._collective.rank == 0:
            try:
                measured = self._validator.take(wait=wait) or {}
            except DivergedError as diverged:
                error = diverged
        if self._collective.any(error is not None):
            raise error or DivergedError("the student that validates the generator diverged on worker 0.")
        if not self._collective.any(bool(measured)):
            return {}
        epoch, self._epoch = self._epoch, None
        return {_EPOCH: epoch, **measured}


def at_rungs(work: Workspace) -> Workspace:
    """Return the workspace whose validations are those of a rung, with more students."""
    study = work.config.study
    return replace(work, config=replace(work.config, study=replace(study, selection_seeds=study.rung_seeds)))


def validate_here(
    work: Workspace,
    epoch: int,
    generator: Generator | None,
    collective: Collective,
    reporter: Reporter = SILENT,
) -> Mapping[str, float]:
    """Validate the generator of an epoch on worker 0, the only one that needs it, while all wait.

    Returns and raises as `Rungs.take`.
    """
    rungs = Rungs(HereValidator(work), collective)
    rungs.begin(epoch, generator, reporter)
    return rungs.take(wait=True)


def validation_in(step: int, metrics: Mapping[str, float]) -> tuple[int, dict[str, float]] | None:
    """Return the epoch that a report validates, and its metrics; None if it validates none.

    The report of a later epoch has losses of that one, which are left out.
    """
    if _EPOCH not in metrics:
        return None
    epoch = int(metrics[_EPOCH])
    names = metrics.keys() - {_EPOCH} if epoch == step else metrics.keys() & _OF_RUNG
    return epoch, {name: metrics[name] for name in metrics if name in names}
