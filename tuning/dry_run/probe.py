"""A short probe of what jobs cost: a few steps of the real stages on the real data, on the devices that will train.

    with Probe(work, placement, num_workers=2) as probe:
        probe.seconds("prior", config)

Jobs that run side by side slow each other, so several workers of Ray measure the same job at the same time.
"""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Self

import ray
import torch

from dim_ray.config import Config, fingerprint, to_dict
from dim_ray.core.data.splits import Split, class_counts
from dim_ray.core.generator.adversarial import AdversarialTraining
from dim_ray.core.generator.matching import Distillation
from dim_ray.core.generator.pair import Pair, build_pair
from dim_ray.core.networks.classifiers import build_network
from dim_ray.core.students.budgets import plan_budget
from dim_ray.core.students.student import finished
from dim_ray.core.teachers.pool import StoredPool, TeacherPool
from dim_ray.core.teachers.teacher import Teacher, TeacherTraining
from dim_ray.core.training.loop import Losses, Stage
from dim_ray.core.training.ports import SingleWorker
from dim_ray.core.training.random import stream
from dim_ray.distributed.cluster.held import on_held_device
from dim_ray.distributed.cluster.placement import Placement
from dim_ray.errors import DimError, ResourceError
from dim_ray.pipeline.generators import rung_epochs
from dim_ray.pipeline.students import SizedGenerator, StudentPlan, group_students, plan_selection, train_group
from dim_ray.pipeline.teachers import open_pool
from dim_ray.pipeline.workspace import Workspace

__all__ = ["Job", "Probe"]

Job = Literal["teacher", "prior", "trial", "student"]

_READ: Mapping[Job, tuple[str, ...]] = {
    "teacher": ("pool",),
    "prior": ("generator", "prior"),
    "trial": ("networks", "pool", "generator", "prior", "matching", "evaluation"),
    "student": ("generator",),
}
"""Sections of the configuration that a job's cost depends on."""
_FREE = {
    "size", "num_snapshots", "snapshot_spacing", "seed", "learning_rate", "momentum", "weight_decay", "temperature",
    "weight", "adversarial_weight", "class_weight",
}  # fmt: skip
"""Fields that change a result but not its cost."""
_JOB_MODULE = "tuning.trial"  # imports everything that a job's process needs
_ROOM_SECONDS = 600.0  # an autoscaler may have to start a node
_WARM_STEPS = 2  # they fill caches, and aren't counted
_LEAST_STEPS = 4
_STAGE_SECONDS = 1.5
_STUDENT_STEPS = (4, 16)


class Probe:
    """Workers of Ray that measure jobs and keep nothing; each kind of job is measured once.

    Attributes:
        start_seconds: Time until a process has imported what a job needs.
    """

    def __init__(self, work: Workspace, placement: Placement, num_workers: int) -> None:
        held: dict[str, Any] = {"num_cpus": placement.cpus_per_worker, "num_gpus": placement.gpus_per_worker}
        try:
            ray.get(ray.remote(**held)(_find_room).remote(), timeout=_ROOM_SECONDS)
        except ray.exceptions.GetTimeoutError as error:
            raise ResourceError(
                f"the cluster had no room for a worker within {_ROOM_SECONDS:.0f} seconds, which the dry run needs for "
                "a few steps: other work holds it. Try again when that has ended."
            ) from error
        started, shared = time.perf_counter(), ray.put(work)
        self._workers = [ray.remote(**held)(_Worker).remote(shared) for _ in range(num_workers)]
        self._known: dict[tuple[Any, ...], float] = {}
        self._answers([worker.begin.remote() for worker in self._workers])
        self.start_seconds = time.perf_counter() - started

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            ray.kill(worker)

    def seconds(self, job: Job, config: Config, *arguments: Any) -> float:
        """Return the device seconds of a job, the mean over the workers.

        The arguments are a teacher's architecture; or a student's plan, and the number of students that differ in their
        seeds.
        """
        sections = to_dict(config)
        read = {name: {key: own for key, own in sections[name].items() if key not in _FREE} for name in _READ[job]}
        key = (job, fingerprint(read), *arguments)
        if key not in self._known:
            calls = [worker.measure.remote(job, config, arguments) for worker in self._workers]
            self._known[key] = statistics.fmean(self._answers(calls))
        return self._known[key]

    def _answers(self, calls: Sequence[Any]) -> list[Any]:
        try:
            return list(ray.get(calls))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, DimError):
                raise error.cause from error
            raise
        except ray.exceptions.RayError as error:
            raise ResourceError(
                "a process of the dry run died while it tried a few steps; most often the memory is too small. Let "
                "fewer trials run side by side, with --max-concurrent or study.cpus_per_worker."
            ) from error


class _Worker:
    """An actor that holds what a worker of a trial holds."""

    def __init__(self, work: Workspace) -> None:
        importlib.import_module(_JOB_MODULE)
        self._work = on_held_device(work)

    def begin(self) -> None:
        """Answer that everything is imported."""

    def measure(self, job: Job, config: Config, arguments: Sequence[Any]) -> float:
        return _MEASURES[job](replace(self._work, config=config), *arguments)


def _find_room() -> None:
    """Run where a worker fits."""


def _teacher_seconds(work: Workspace, architecture: str) -> float:
    pool = replace(work.config.pool, kind="stored")
    return _stage_seconds(TeacherTraining(pool, [0], architecture, work.dataset), work.dataset.train)


def _prior_seconds(work: Workspace) -> float:
    config, dataset = work.config, work.dataset
    stage = AdversarialTraining(_build_pair(work), config.prior, dataset, config.health, SingleWorker())
    return _stage_seconds(stage, dataset.train)


def _trial_seconds(work: Workspace) -> float:
    """Return the seconds of a trial that isn't stopped, with its validations."""
    config, dataset = work.config, work.dataset
    stage = Distillation(
        _build_pair(work),
        _untrained_pool(work),
        config.matching,
        config.prior,
        dataset,
        health=config.health,
        collective=SingleWorker(),
        measure=lambda epoch: {},
    )
    num_seeds, rungs = config.study.selection_seeds, rung_epochs(config, len(dataset.train))[:-1]
    students = sum(_student_seconds(work, student, num_seeds) for student in plan_selection(work, range(1)))
    num_students = len(rungs) * config.study.rung_seeds + num_seeds
    return _stage_seconds(stage, dataset.train) + num_students * students


def _student_seconds(work: Workspace, student: StudentPlan, num_seeds: int) -> float:
    """Return the seconds of one of several students of different seeds, on the line through two shorter ones."""
    dataset = work.dataset
    is_real, device_type = student.protocol.startswith("real_"), dataset.train.images.device.type
    generator = None if is_real else SizedGenerator(network=_build_pair(work).generator.eval(), size_bytes=0)
    readings = []
    for num_steps in _STUDENT_STEPS:
        recipe = replace(
            student.recipe, epochs=1, min_steps=num_steps, labels="hard", candidates=1, latent_steps=0, quirks=()
        )
        cells = [replace(student, recipe=recipe, seed=seed) for seed in range(num_seeds)]
        group = group_students(work, cells, num_seeds=num_seeds, device_type=device_type)[0]
        started = time.perf_counter()
        results = finished(train_group(work, group, [generator] * len(group), test=False))
        readings.append((results[0].budget.optimiser_steps, (time.perf_counter() - started) / len(group)))
    (fewer, less), (more, longer) = readings
    step = max(0.0, longer - less) / (more - fewer) if more > fewer else longer / more  # an epoch may be longer
    budget = plan_budget(
        student.recipe,
        student.protocol,
        num_classes=dataset.num_classes,
        images_per_class=student.images_per_class,
        image_bytes=0,
        generator_bytes=0,
        real_class_counts=class_counts(dataset.train, dataset.num_classes),
    )
    return max(0.0, longer - more * step) + budget.optimiser_steps * step


_MEASURES: Mapping[Job, Callable[..., float]] = {
    "teacher": _teacher_seconds,
    "prior": _prior_seconds,
    "trial": _trial_seconds,
    "student": _student_seconds,
}


def _stage_seconds(stage: Stage, train: Split) -> float:
    """Return the seconds of all steps of a stage, from a few of them."""
    device = train.images.device
    rng = stream(0, "probe", device=device)
    indices = torch.randint(len(train), (stage.batch_size,), generator=rng, device=device)
    began, number = 0.0, 0
    while number < _WARM_STEPS + _LEAST_STEPS or time.perf_counter() < began + _STAGE_SECONDS:
        if number == _WARM_STEPS:
            began = time.perf_counter()
        losses = stage.step(number, indices)
        number += 1
        if number <= _WARM_STEPS:
            _wait(losses)
    _wait(losses)
    num_steps = stage.epochs * (len(train) // stage.batch_size)
    return num_steps * (time.perf_counter() - began) / (number - _WARM_STEPS)


def _wait(losses: Losses) -> None:
    """Wait until a GPU has done what it was given."""
    float(next(iter(losses.values())))


def _build_pair(work: Workspace) -> Pair:
    config = work.config
    return build_pair(config.generator, config.prior, work.dataset, learning_rate=config.matching.learning_rate, seed=0)


def _untrained_pool(work: Workspace) -> TeacherPool | None:
    """Return a pool of untrained teachers, which cost what trained ones do."""
    config, dataset = work.config, work.dataset
    if config.matching.kind == "none" or config.pool.kind == "online":
        return open_pool(work, SingleWorker())
    rng = stream(0, "probe", device=dataset.train.images.device)
    networks = {name: build_network(name, dataset, rng) for name in config.networks.teachers}
    teachers = [
        Teacher(architecture=name, snapshots=[network.state_dict()], steps=[0], validation_accuracy=0.0)
        for name, network in networks.items()
    ]
    return StoredPool(teachers, dataset)
