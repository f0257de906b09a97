"""Validates a generator on a free slot of the cluster, so that its training goes on.

validator = SlotValidator(work, {"CPU": 1, "GPU": 0})
validator.begin(generator)        # at once, where a slot is free; in place otherwise
validator.take(wait=False)        # None until it's there
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from dim_ray.core.generator.networks import Generator
from dim_ray.distributed.cluster.held import on_held_device
from dim_ray.errors import DivergedError
from dim_ray.pipeline.students import validate
from dim_ray.pipeline.validation import HereValidator
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress.notices import log

__all__ = ["SlotValidator"]


class SlotValidator:
    """A Validator that sends the generator to a task, where there is room for one.

    Others may take the slot first, and nodes die: who waits for a task that hasn't begun, or for one that is lost,
    measures in place.

    Args:
        work: Data and recipe of the students, on this process's device.
        held: What a task holds, by Ray's names: ``CPU`` and ``GPU``.
    """

    def __init__(self, work: Workspace, held: Mapping[str, float]) -> None:
        self._held = held
        self._here = HereValidator(work)
        self._work = work
        self._shared: Any = None  # the workspace among Ray's objects, once it's needed
        self._task: Any = None
        self._has_begun = False
        self._generator: Generator | None = None  # a copy of the one that is measured by the task

    def begin(self, generator: Generator) -> None:
        """Sends a copy of the generator to a free slot, or measures it in place."""
        free = ray.available_resources()
        if any(free.get(name, 0.0) < count for name, count in self._held.items()):
            self._here.begin(generator)
            return
        if self._shared is None:
            self._shared = ray.put(replace(self._work, dataset=self._work.dataset.to("cpu")))
        self._generator, self._has_begun = copy.deepcopy(generator).cpu(), False
        outside = PlacementGroupSchedulingStrategy(placement_group=None)  # of the trial's own, which is taken
        held = {"num_cpus": self._held["CPU"], "num_gpus": self._held["GPU"], "scheduling_strategy": outside}
        remote = ray.remote(**held, max_retries=0, num_returns="streaming")(_validate)
        self._task = remote.options(name="validation").remote(self._shared, self._generator)

    def take(self, *, wait: bool) -> Mapping[str, float] | None:
        """Returns what was measured.

        Raises:
            DivergedError: Every student diverged.
        """
        if self._task is None:
            return self._here.take(wait=wait)
        try:
            measured = self._take(wait=wait)
            if measured is None and not wait:
                return None
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, DivergedError):
                raise error.cause from error
            raise
        except ray.exceptions.RayError as error:
            log.info("A validation was lost with its process, and is done again in place: %s", error)
            measured = None
        generator, self._task, self._generator = self._generator, None, None
        if measured is not None:
            return measured
        assert generator is not None
        self._here.begin(generator.to(self._work.dataset.train.images.device))
        return self._here.take(wait=True)

    def _take(self, *, wait: bool) -> Mapping[str, float] | None:
        """Returns what the task measured; None where it isn't there, or will not be because it never began."""
        if not self._has_begun:
            if not _has_next(self._task):
                if wait:
                    log.info("A validation found no slot, and is done in place.")
                    ray.cancel(self._task, force=True)
                return None
            ray.get(next(self._task))
            self._has_begun = True
        if not wait and not _has_next(self._task):
            return None
        measured: Mapping[str, float] = ray.get(next(self._task))
        return measured


def _has_next(stream: Any) -> bool:
    ready, _ = ray.wait([stream], timeout=0)
    return bool(ready)


def _validate(work: Workspace, generator: Generator) -> Iterator[dict[str, float] | None]:
    """Yields once when it begins, and then the measurements."""
    yield None
    work = on_held_device(work)
    yield validate(work, generator.to(work.dataset.train.images.device))
