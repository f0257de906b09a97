"""A short probe of what steps cost on this machine: the real stages on the real data, ended after a few steps.

    probe = Probe(work, num_threads=1)
    probe.prior_epoch(config), probe.matching_epoch(config)

It trains in this process, keeps nothing, and takes some twenty seconds in all.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from dataclasses import replace

from dim_ray.config import Config, Protocol
from dim_ray.core.generator.adversarial import AdversarialTraining
from dim_ray.core.generator.matching import Distillation
from dim_ray.core.generator.pair import Pair, build_pair
from dim_ray.core.networks.classifiers import build_network
from dim_ray.core.students.student import finished
from dim_ray.core.teachers.pool import StoredPool, TeacherPool
from dim_ray.core.teachers.teacher import Teacher, TeacherTraining
from dim_ray.core.training.loop import Stage, run_epochs
from dim_ray.core.training.ports import NoCheckpointer, Ports, SingleWorker
from dim_ray.core.training.random import stream
from dim_ray.pipeline.students import SizedGenerator, StudentPlan, group_students, train_group
from dim_ray.pipeline.teachers import open_pool
from dim_ray.pipeline.workspace import Workspace, on_device
from tuning.dry_run.timings import step_key

__all__ = ["Probe"]

_WARM_STEPS = 2  # the first ones pay for what the others find ready
_LEAST_STEPS = 3
_STAGE_SECONDS = 1.5
_STUDENT_STEPS = (4, 16)


class Probe:
    """Measures on first use, each cost once.

    Args:
        work: The study's workspace, data on the CPU.
        num_threads: CPU threads of a worker.
        may_use_gpu: Whether a worker holds a GPU, or a part of one.
    """

    def __init__(self, work: Workspace, num_threads: int, *, may_use_gpu: bool = True) -> None:
        self._work = on_device(work, num_threads, may_use_gpu=may_use_gpu)
        self._measured: dict[tuple[str, str], float] = {}
        self._student = functools.cache(self._student_line)

    def teacher_epoch(self, config: Config, architecture: str) -> float:
        """Returns the seconds of an epoch of a teacher."""
        pool = replace(config.pool, kind="stored")

        def stage() -> Stage:
            return TeacherTraining(pool, [0], architecture, self._work.dataset)

        return self._epoch((step_key(config, "teacher"), architecture), stage)

    def prior_epoch(self, config: Config) -> float:
        """Returns the seconds of an epoch of a prior."""

        def stage() -> Stage:
            return AdversarialTraining(
                self._pair(config), config.prior, self._work.dataset, config.health, SingleWorker()
            )

        return self._epoch((step_key(config, "prior"), ""), stage)

    def matching_epoch(self, config: Config) -> float:
        """Returns the seconds of an epoch of matching, without what is measured at the rungs."""

        def stage() -> Stage:
            return Distillation(
                self._pair(config),
                self._pool(config),
                config.matching,
                config.prior,
                self._work.dataset,
                health=config.health,
                collective=SingleWorker(),
                measure=lambda epoch: {},
            )

        return self._epoch((step_key(config, "trial"), ""), stage)

    def student(
        self, architecture: str, images_per_class: int, protocol: Protocol, capacity: int, num_steps: int
    ) -> float:
        """Returns the seconds of a student of so many steps."""
        fixed, step = self._student(architecture, images_per_class, protocol, capacity)
        return fixed + num_steps * step

    def _student_line(
        self, architecture: str, images_per_class: int, protocol: Protocol, capacity: int
    ) -> tuple[float, float]:
        """Returns the seconds of a student without a step, and those of a step; at once with others, as in a run."""
        dataset, evaluation = self._work.dataset, self._work.config.evaluation
        pair = self._pair(self._work.config.with_fields({"generator.capacity": capacity}))
        network = None if protocol.startswith("real_") else pair.generator.eval().requires_grad_(False)
        stored = None if network is None else SizedGenerator(network=network, size_bytes=0)
        recipe = evaluation.recipe(protocol, dataset.num_channels)
        readings = []
        for steps in _STUDENT_STEPS:
            few = replace(recipe, epochs=1, min_steps=steps, labels="hard", quirks=())
            cells = [
                StudentPlan(
                    protocol=protocol,
                    images_per_class=images_per_class,
                    architecture=architecture,
                    seed=seed,
                    generator=None,
                    recipe=few,
                    preset="corrected",
                )
                for seed in range(evaluation.num_seeds)
            ]
            device_type = dataset.train.images.device.type
            group = group_students(self._work, cells, num_seeds=evaluation.num_seeds, device_type=device_type)[0]
            started = time.perf_counter()
            results = finished(train_group(self._work, group, [stored] * len(group), test=False))
            readings.append((results[0].budget.optimiser_steps, (time.perf_counter() - started) / len(group)))
        (few_steps, less), (more_steps, more) = readings
        if more_steps == few_steps:  # an epoch is longer than both
            return 0.0, more / more_steps
        step = max(0.0, more - less) / (more_steps - few_steps)
        return max(0.0, less - few_steps * step), step

    def _epoch(self, key: tuple[str, str], make: Callable[[], Stage]) -> float:
        if key not in self._measured:
            stage, steps, train = make(), _Steps(), self._work.dataset.train
            with contextlib.suppress(_EnoughError):
                run_epochs(stage, train, Ports(checkpointer=steps))
            self._measured[key] = steps.seconds() * (len(train) // stage.batch_size)
        return self._measured[key]

    def _pair(self, config: Config) -> Pair:
        return build_pair(
            config.generator, config.prior, self._work.dataset, learning_rate=config.matching.learning_rate, seed=0
        )

    def _pool(self, config: Config) -> TeacherPool | None:
        """Returns a pool of untrained teachers, which cost what trained ones do."""
        if config.matching.kind == "none" or config.pool.kind == "online":
            return open_pool(replace(self._work, config=config), SingleWorker())
        device = self._work.dataset.train.images.device
        networks = [
            (name, build_network(name, self._work.dataset, stream(0, "probe", device=device)))
            for name in config.networks.teachers
        ]
        return StoredPool(
            (
                Teacher(architecture=name, snapshots=[network.state_dict()], steps=[0], validation_accuracy=0.0)
                for name, network in networks
            ),
            self._work.dataset,
        )


class _EnoughError(Exception):
    """Ends a stage that was measured for long enough."""


class _Steps(NoCheckpointer):
    """A Checkpointer that keeps nothing, and reads the clock when it's asked, once a step."""

    def __init__(self) -> None:
        self._readings: list[float] = []

    def due(self) -> bool:
        self._readings.append(time.perf_counter())
        counted = len(self._readings) - _WARM_STEPS
        if counted > _LEAST_STEPS and self._readings[-1] - self._readings[_WARM_STEPS - 1] > _STAGE_SECONDS:
            raise _EnoughError
        return False

    def seconds(self) -> float:
        """Returns what a step takes."""
        counted = self._readings[max(0, min(_WARM_STEPS, len(self._readings) - 1) - 1) :]
        return (counted[-1] - counted[0]) / max(1, len(counted) - 1)
