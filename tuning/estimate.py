"""Device seconds of a study's jobs: teachers and priors, trials, students.

costs = Costs(work, num_threads=1)
network_jobs(work, costs), costs.trial(24, epochs=4.5), student_jobs(work, costs)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from dim_ray.config import Protocol
from dim_ray.core.budgets import budget
from dim_ray.core.splits import class_counts
from dim_ray.pipeline.generators import rung_epochs
from dim_ray.pipeline.priors import prior_is_settled
from dim_ray.pipeline.teachers import missing_teachers
from dim_ray.pipeline.workspace import Workspace
from tuning.probe import Probe
from tuning.study import largest_trial
from tuning.timings import StoredTimings

__all__ = ["Costs", "contender_jobs", "network_jobs", "student_jobs"]


class Costs:
    """Device seconds, from the store where it knows, else from a probe.

    Args:
        work: The study's workspace, data on the CPU.
        num_threads: CPU threads of a worker.
    """

    def __init__(self, work: Workspace, num_threads: int) -> None:
        self._work = work
        self._stored = StoredTimings(work)
        self._probe = Probe(work, num_threads)
        self._known: set[tuple[object, ...]] = set()
        self.num_stored = 0
        self.num_probed = 0

    def teacher(self, architecture: str) -> float:
        """Returns what a teacher takes."""
        stored = self._of_store(("teacher", architecture), self._stored.teacher_epoch(architecture))
        each = self._probe.teacher_epoch(architecture) if stored is None else stored
        return self._work.config.pool.epochs * each

    def prior(self, capacity: int) -> float:
        """Returns what a prior takes."""
        stored = self._of_store(("prior", capacity), self._stored.prior_epoch(capacity))
        each = self._probe.prior_epoch(capacity) if stored is None else stored
        return self._work.config.prior.epochs * each

    def trial(self, capacity: int, epochs: float) -> float:
        """Returns what a trial of so many epochs takes, with the students that validate it at the rungs."""
        stored = self._of_store(("trial", capacity), self._stored.trial_epoch(capacity))
        if stored is not None:
            return epochs * stored
        study, config = self._work.config.study, self._work.config
        num_rungs = max(1.0, len(rung_epochs(config)) * epochs / config.matching.epochs)
        architecture = config.networks.students[0]
        validation = sum(
            self.student(architecture, images_per_class, "on_the_fly", capacity)
            for images_per_class in study.selection_images_per_class
        )
        return epochs * self._probe.matching_epoch(capacity) + num_rungs * study.selection_seeds * validation

    def student(self, architecture: str, images_per_class: int, protocol: Protocol, capacity: int) -> float:
        """Returns what a student takes."""
        of = (architecture, images_per_class, protocol)
        steps = _steps(self._work, protocol, images_per_class)
        stored = self._of_store(("student", *of), self._stored.student(*of))
        return self._probe.student(*of, capacity, steps) if stored is None else steps * stored

    def _of_store(self, what: tuple[object, ...], stored: float | None) -> float | None:
        """Notes where a cost is from."""
        if what not in self._known:
            self._known.add(what)
            self.num_stored += stored is not None
            self.num_probed += stored is None
        return stored


def network_jobs(work: Workspace, costs: Costs) -> list[float]:
    """Returns what is missing of teachers and priors, the dearest first."""
    config, largest = work.config, largest_trial(work)
    names = config.networks.teachers
    teachers = [costs.teacher(names[number % len(names)]) for number in missing_teachers(largest)]
    priors = []
    for capacity in config.study.capacities:
        generator = replace(config.generator, capacity=capacity)
        if not prior_is_settled(replace(work, config=replace(config, generator=generator))):
            priors.append(costs.prior(capacity))
    return sorted([*teachers, *priors], reverse=True)


def contender_jobs(work: Workspace, costs: Costs, ipcs: Iterable[int]) -> list[float]:
    """Returns what students of these IPCs take that decide between contenders, of a generator of middle capacity."""
    architecture, capacity = work.config.networks.students[0], _middle_capacity(work)
    return [costs.student(architecture, ipc, "on_the_fly", capacity) for ipc in ipcs]


def student_jobs(work: Workspace, costs: Costs) -> list[float]:
    """Returns the final evaluations, the dearest first: of a generator of middle capacity, and of the baselines."""
    evaluation, dataset = work.config.evaluation, work.dataset
    capacity = _middle_capacity(work)
    cells: list[tuple[int, Protocol]] = [
        (ipc, own) for ipc in evaluation.images_per_class for own in evaluation.protocols if own != "real_full"
    ]
    if "real_full" in evaluation.protocols:
        cells.append((len(dataset.train) // dataset.num_classes, "real_full"))
    jobs = [
        costs.student(architecture, ipc, protocol, capacity)
        for architecture in work.config.networks.students
        for ipc, protocol in cells
    ]
    return sorted(jobs * evaluation.num_seeds, reverse=True)


def _middle_capacity(work: Workspace) -> int:
    capacities = sorted(work.config.study.capacities)
    return capacities[len(capacities) // 2]


def _steps(work: Workspace, protocol: Protocol, images_per_class: int) -> int:
    dataset = work.dataset
    contract = budget(
        work.config.evaluation.recipe(protocol, dataset.num_channels),
        protocol,
        num_classes=dataset.num_classes,
        images_per_class=images_per_class,
        image_bytes=0,
        generator_bytes=0,
        real_class_counts=class_counts(dataset.train, dataset.num_classes),
        teacher_bytes=0,
    )
    return contract.optimiser_steps
