"""Validation of a generator while it is distilled: by worker 0, in place or elsewhere, and told to all workers.

rungs = Rungs(HereValidator(work), collective)
rungs.begin(3, generator)
rungs.take(wait=False)      # {"validated_epoch": 3, "validation_accuracy": 0.93}, or {} while it isn't there
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from dim_ray.core.generator.networks import Generator
from dim_ray.core.training.ports import Collective
from dim_ray.errors import DivergedError
from dim_ray.pipeline.students import validate
from dim_ray.pipeline.workspace import Workspace

__all__ = ["WALL_SECONDS", "HereValidator", "Rungs", "Validator", "validate_on_first", "validation_in"]

WALL_SECONDS = "wall_seconds"
"""What the distillation has taken so far, in all the processes that worked on it."""

_EPOCH = "validated_epoch"
_OF_RUNG = {"validation_accuracy", "validation_std", WALL_SECONDS}


class Validator(Protocol):
    """Measures one generator after the other."""

    def begin(self, generator: Generator) -> None:
        """Begins to measure a generator as it is now. It may be trained on afterwards."""

    def take(self, *, wait: bool) -> Mapping[str, float] | None:
        """Returns the measurements of the generator that was begun, once.

        Args:
            wait: Until they are there; otherwise None is returned where they aren't yet.

        Raises:
            DivergedError: Every student diverged.
        """


class HereValidator:
    """A Validator that holds up the training.

    Args:
        work: Data and recipe of the students.
    """

    def __init__(self, work: Workspace) -> None:
        self._work = work
        self._found: Mapping[str, float] | DivergedError | None = None

    def begin(self, generator: Generator) -> None:
        """Measures the generator."""
        try:
            self._found = validate(self._work, generator)
        except DivergedError as error:
            self._found = error

    def take(self, *, wait: bool) -> Mapping[str, float] | None:
        """Returns what was measured.

        Raises:
            DivergedError: Every student diverged.
        """
        found, self._found = self._found, None
        if isinstance(found, DivergedError):
            raise found
        return found


class Rungs:
    """Validations of what several workers train together, one at a time; all workers make the same calls.

    Args:
        validator: Worker 0's; None where nobody wants to know.
        collective: The workers.
    """

    def __init__(self, validator: Validator | None, collective: Collective) -> None:
        self._validator = validator
        self._collective = collective
        self._epoch: int | None = None  # that is being validated

    def begin(self, epoch: int, generator: Generator) -> None:
        """Begins to validate the generator of an epoch; the one before it has been taken."""
        if self._validator is None:
            return
        self._epoch = epoch
        if self._collective.rank == 0:
            self._validator.begin(generator)

    def take(self, *, wait: bool) -> Mapping[str, float]:
        """Returns the measurements that have come, with the epoch; the others than worker 0 get the epoch alone.

        Raises:
            DivergedError: Every student diverged.
        """
        if self._epoch is None or self._validator is None:
            return {}
        validator = self._validator
        measured: dict[str, float] = {}

        def look() -> bool:
            measured.update(validator.take(wait=wait) or {})
            return bool(measured)

        if not _on_first(self._collective, look):
            return {}
        epoch, self._epoch = self._epoch, None
        return {_EPOCH: epoch, **measured}


def validate_on_first(
    work: Workspace, generator: Callable[[], Generator], collective: Collective, epoch: int
) -> Mapping[str, float]:
    """Returns what worker 0 measures in place, with the epoch; the others get the epoch alone.

    Args:
        work: Data and recipe of the students.
        generator: Gives the generator; called on worker 0.
        collective: The workers.
        epoch: That the generator is of.

    Raises:
        DivergedError: Every student diverged; on all workers.
    """
    measured: dict[str, float] = {}

    def measure() -> bool:
        measured.update(validate(work, generator()))
        return True

    _on_first(collective, measure)
    return {_EPOCH: epoch, **measured}


def validation_in(step: int, metrics: Mapping[str, float]) -> tuple[int, dict[str, float]] | None:
    """Returns the epoch that was validated, and the metrics of it; None where nothing was validated.

    Args:
        step: The epoch that the metrics are reported with. Where it's a later one, losses are of that and left out.
        metrics: As a Reporter is told them.
    """
    if _EPOCH not in metrics:
        return None
    epoch = int(metrics[_EPOCH])
    names = metrics.keys() - {_EPOCH} if epoch == step else metrics.keys() & _OF_RUNG
    return epoch, {name: metrics[name] for name in metrics if name in names}


def _on_first(collective: Collective, action: Callable[[], bool]) -> bool:
    """Returns to every worker what an action returns to worker 0; all of them go on, or none does."""
    done, error = False, None
    if collective.rank == 0:
        try:
            done = action()
        except DivergedError as diverged:
            error = diverged
    if collective.any(error is not None):
        raise error or DivergedError("the student that validates the generator diverged on worker 0.")
    return collective.any(done)
