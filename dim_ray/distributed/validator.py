"""Validation of a generator on a free slot of the cluster, while its training continues.

validator = SlotValidator(work, {"CPU": 1, "GPU": 0})
validator.begin(generator)        # on a free slot if there is one, otherwise in place
validator.take(wait=False)        # None until the measurements are there
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from dim_ray.core.generator.networks import Generator
from dim_ray.core.training.ports import SILENT, Reporter
from dim_ray.distributed.cluster.held import on_held_device
from dim_ray.errors import DivergedError
from dim_ray.pipeline.students import validate
from dim_ray.pipeline.validation import HereValidator
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress.notices import log

__all__ = ["SlotValidator"]


class SlotValidator:
    """A Validator that sends the generator to a task, if there is room for one.

    Another job may take the slot first, and nodes die. If a task hasn't begun when its result is needed, or is lost,
    the generator is measured in place.

    Args:
        work: Data and recipe of the students, on this process's device.
        held: Resources of a task, by Ray's names: ``CPU`` and ``GPU``.
    """

    def __init__(self, work: Workspace, held: Mapping[str, float]) -> None:
        self._held = held
        self._here = HereValidator(work)
        self._work = work
        self._shared: Any = None  # the workspace in Ray's object store
        self._task: Any = None
        self._has_begun = False
        self._sent: Generator | None = None

    def begin(self, generator: Generator, reporter: Reporter = SILENT) -> None:
        free = ray.available_resources()
        if any(free.get(name, 0.0) < count for name, count in self._held.items()):
            self._here.begin(generator, reporter)
            return
        if self._shared is None:
            self._shared = ray.put(replace(self._work, dataset=self._work.dataset.to("cpu")))
        self._sent, self._has_begun = copy.deepcopy(generator).cpu(), False
        outside = PlacementGroupSchedulingStrategy(placement_group=None)  # the trial's own group is full
        held = {"num_cpus": self._held["CPU"], "num_gpus": self._held["GPU"], "scheduling_strategy": outside}
        remote = ray.remote(**held, max_retries=0, num_returns="streaming")(_validate)
        self._task = remote.options(name="validation").remote(self._shared, self._sent)

    def take(self, *, wait: bool) -> Mapping[str, float] | None:
        if self._task is None:
            return self._here.take(wait=wait)
        try:
            if not self._has_begun and _has_next(self._task):
                ray.get(next(self._task))
                self._has_begun = True
            if self._has_begun and (wait or _has_next(self._task)):
                task, self._task = self._task, None
                measured: Mapping[str, float] = ray.get(next(task))
                return measured
            if not wait:
                return None
            log.info("A validation found no free slot; it runs in place.")
            ray.cancel(self._task, force=True)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, DivergedError):
                raise error.cause from error
            raise
        except ray.exceptions.RayError as error:
            log.info("The process of a validation was lost; it runs again in place: %s", error)
        self._task = None
        assert self._sent is not None
        self._here.begin(self._sent.to(self._work.dataset.train.images.device))
        return self._here.take(wait=True)


def _has_next(stream: Any) -> bool:
    ready, _ = ray.wait([stream], timeout=0)
    return bool(ready)


def _validate(work: Workspace, generator: Generator) -> Iterator[dict[str, float] | None]:
    """Yield None when the task begins, and then the measurements."""
    yield None
    work = on_held_device(work)
    yield validate(work, generator.to(work.dataset.train.images.device))
