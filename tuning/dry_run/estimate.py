"""Device seconds of a study's jobs: teachers and priors, trials, students.

costs = Costs(work, num_threads=1)
network_jobs(work, costs, [config]), costs.trial(config, epochs=4.5)
student_jobs(work, costs, final_students(work))
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from dim_ray.config import Config, EvaluationConfig, Protocol
from dim_ray.core.data.splits import class_counts
from dim_ray.core.students.budgets import plan_budget
from dim_ray.pipeline.generators import rung_epochs
from dim_ray.pipeline.priors import prior_fingerprint, prior_is_settled
from dim_ray.pipeline.students import StudentPlan, plan_selection
from dim_ray.pipeline.teachers import pool_teachers, teacher_fingerprint
from dim_ray.pipeline.workspace import Workspace
from tuning.dry_run.probe import Probe
from tuning.dry_run.timings import StoredTimings, step_key

__all__ = [
    "Costs",
    "Student",
    "contending_students",
    "final_students",
    "network_jobs",
    "student_jobs",
    "students_of",
]

Student = tuple[str, int, Protocol, EvaluationConfig]
"""Architecture, images per class, protocol and recipe."""


class Costs:
    """Device seconds, from the store where it knows, else from a probe.

    Args:
        work: The study's workspace, data on the CPU.
        num_threads: CPU threads of a worker.
        may_use_gpu: Whether a worker holds a GPU, or a part of one.
    """

    def __init__(self, work: Workspace, num_threads: int, *, may_use_gpu: bool = True) -> None:
        self._work = work
        self._stored = StoredTimings(work)
        self._probe = Probe(work, num_threads, may_use_gpu=may_use_gpu)
        self._known: set[tuple[object, ...]] = set()
        self.num_stored = 0
        self.num_probed = 0

    def teacher(self, config: Config, architecture: str) -> float:
        """Returns what a teacher takes."""
        what = ("teacher", step_key(config, "teacher"), architecture)
        stored = self._of_store(what, self._stored.teacher_epoch(config, architecture))
        each = self._probe.teacher_epoch(config, architecture) if stored is None else stored
        return config.pool.epochs * each

    def prior(self, config: Config) -> float:
        """Returns what a prior takes."""
        stored = self._of_store(("prior", step_key(config, "prior")), self._stored.prior_epoch(config))
        each = self._probe.prior_epoch(config) if stored is None else stored
        return config.prior.epochs * each

    def trial(self, config: Config, epochs: float) -> float:
        """Returns what a trial of so many epochs takes, with the students that validate it at the rungs."""
        stored = self._of_store(("trial", step_key(config, "trial")), self._stored.trial_epoch(config))
        if stored is not None:
            return epochs * stored
        capacity = config.generator.capacity
        num_rungs = max(1.0, len(rung_epochs(config)) * epochs / config.matching.epochs)
        students = students_of(plan_selection(replace(self._work, config=config), range(1)))
        validation = sum(self.student(student, capacity) for student in students)
        return epochs * self._probe.matching_epoch(config) + num_rungs * config.study.selection_seeds * validation

    def student(self, student: Student, capacity: int) -> float:
        """Returns what a student takes, of a generator of this capacity."""
        architecture, images_per_class, protocol, recipe = student
        steps = _steps(self._work, protocol, images_per_class, recipe)
        stored = self._of_store(("student", *student), self._stored.student(*student))
        if stored is not None:
            return steps * stored
        return self._probe.student(architecture, images_per_class, protocol, capacity, steps)

    def _of_store(self, what: tuple[object, ...], stored: float | None) -> float | None:
        """Notes where a cost is from."""
        if what not in self._known:
            self._known.add(what)
            self.num_stored += stored is not None
            self.num_probed += stored is None
        return stored


def network_jobs(work: Workspace, costs: Costs, variants: Sequence[Config]) -> list[float]:
    """Returns what is missing of the teachers and priors of several configurations, the dearest first."""
    jobs: dict[str, float] = {}
    for config in variants:
        own, names = replace(work, config=config), config.networks.teachers
        if (key := prior_fingerprint(own)) not in jobs:
            jobs[key] = 0.0 if prior_is_settled(own) else costs.prior(config)
        for number in pool_teachers(config):
            if (key := teacher_fingerprint(own, number)) not in jobs:
                is_there = work.artifacts.exists("teachers", key)
                jobs[key] = 0.0 if is_there else costs.teacher(config, names[number % len(names)])
    return sorted((seconds for seconds in jobs.values() if seconds > 0), reverse=True)


def student_jobs(work: Workspace, costs: Costs, students: Iterable[Student]) -> list[float]:
    """Returns what students take, the dearest first: of a generator of middle capacity, and of real images."""
    capacities = sorted(work.config.study.capacities)
    capacity = capacities[len(capacities) // 2]
    return sorted((costs.student(student, capacity) for student in students), reverse=True)


def students_of(cells: Iterable[StudentPlan]) -> list[Student]:
    """Returns what the cost of students depends on."""
    return [(cell.architecture, cell.images_per_class, cell.protocol, cell.recipe) for cell in cells]


def contending_students(work: Workspace) -> list[Student]:
    """Returns the students that decide between contenders, whichever these are."""
    return students_of(plan_selection(work, range(1))) * work.config.study.num_contender_students


def final_students(work: Workspace) -> list[Student]:
    """Returns the students of the final evaluation, whichever generator it is of."""
    evaluation, dataset = work.config.evaluation, work.dataset
    cells: list[tuple[int, Protocol]] = [
        (ipc, own) for ipc in evaluation.images_per_class for own in evaluation.protocols if own != "real_full"
    ]
    if "real_full" in evaluation.protocols:
        cells.append((len(dataset.train) // dataset.num_classes, "real_full"))
    kinds: list[Student] = [
        (architecture, ipc, own, evaluation.recipe(own, dataset.num_channels))
        for architecture in work.config.networks.students
        for ipc, own in cells
    ]
    return kinds * evaluation.num_seeds


def _steps(work: Workspace, protocol: Protocol, images_per_class: int, recipe: EvaluationConfig) -> int:
    dataset = work.dataset
    budget = plan_budget(
        recipe,
        protocol,
        num_classes=dataset.num_classes,
        images_per_class=images_per_class,
        image_bytes=0,
        generator_bytes=0,
        real_class_counts=class_counts(dataset.train, dataset.num_classes),
        teacher_bytes=0,
    )
    return budget.optimiser_steps
