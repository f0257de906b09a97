"""What a study would take, before it's begun: trials, device seconds, memory, disk, and when it would end.

    for line in plan_study(work, progress).lines(datetime.now()):
        print(line)

Costs are taken from earlier work in the store, and what was never done is tried for a few steps. Nothing is started
but, where a cluster is joined, its preflight. What a run would refuse is refused.
"""

from __future__ import annotations

import heapq
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

from dim_ray.config import Config
from dim_ray.distributed.cluster.joining import cluster, joins_a_cluster
from dim_ray.distributed.cluster.placement import Placement, local_resources, plan_placement
from dim_ray.distributed.preflight.check import check_nodes
from dim_ray.distributed.preflight.findings import NodeReport, find_problems
from dim_ray.distributed.preflight.needs import Needs, estimate_needs
from dim_ray.distributed.preflight.probe import free_memory, library_versions
from dim_ray.errors import ResourceError
from dim_ray.pipeline.generators import rung_epochs
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress import Progress
from dim_ray.progress.stages import counted, format_duration
from dim_ray.store.files.filesystem import open_root
from tuning.dry_run.estimate import (
    Costs,
    Student,
    contending_students,
    final_students,
    network_jobs,
    student_jobs,
    students_of,
)
from tuning.record import StudyRecord
from tuning.search.schedulers import METRIC, TIME_ATTRIBUTE, make_scheduler
from tuning.search.variants import SizeLimit, example_trials, network_variants

__all__ = ["Plan", "Stage", "expected_epochs", "makespan", "plan_study"]

_STAGE = "estimate"
_TRIAL_MODULE = "tuning.trial"  # with all that a job's process imports before it begins
_NUM_SIMULATIONS = 20


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a run."""

    name: str
    jobs: Sequence[float]
    """Device seconds of each."""
    wall_seconds: float

    @property
    def device_seconds(self) -> float:
        """Of all jobs."""
        return sum(self.jobs)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a study would take."""

    study: str
    num_trials: int
    """That are to run."""
    num_finished: int
    epochs: float
    """Of a trial, on average: the scheduler stops some."""
    config: Config
    stages: Sequence[Stage]
    """In their order: networks, trials, and then students."""
    placement: Placement
    needs: Needs
    memory_bytes: int | None
    """Free on this machine; None where it isn't known, or a cluster is joined."""
    disk_bytes: int | None
    """Free for the storage; None where that isn't a folder."""
    start_seconds: float
    """Until a process has imported what a job needs: measured."""
    left_out: str | None
    """What study.max_generator_bytes leaves out."""
    num_stored: int
    """Costs that were taken from the store."""
    num_probed: int
    """Costs that were tried."""

    @property
    def device_seconds(self) -> float:
        """Of all stages."""
        return sum(stage.device_seconds for stage in self.stages)

    @property
    def wall_seconds(self) -> float:
        """From the command to its end."""
        # Ray itself, then processes of the networks and of the trials; students find those of the networks.
        num_starts = 1 + len([stage for stage in self.stages[:2] if stage.jobs])
        return num_starts * self.start_seconds + sum(stage.wall_seconds for stage in self.stages)

    def lines(self, now: datetime) -> list[str]:
        """Returns it for a person.

        Args:
            now: When the study would begin.
        """
        study, at_once = self.config.study, min(self.placement.max_concurrent, max(1, self.num_trials))
        parts = ", ".join(
            f"{format_duration(stage.device_seconds)} for {len(stage.jobs)} {stage.name}"
            for stage in self.stages
            if stage.jobs
        )
        end = now + timedelta(seconds=self.wall_seconds)
        memory = self.needs.memory_bytes(self.needs.num_workers)
        return [
            f"study {self.study}: {counted(self.num_trials, 'trial')} to run, {self.num_finished} of "
            f"{study.num_trials} finished; sampler {study.sampler}, scheduler {study.scheduler}: {self.epochs:.1f} of "
            f"{self.config.matching.epochs} epochs each, on average",
            *([f"          {self.left_out}"] if self.left_out else []),
            f"cost      about {format_duration(self.device_seconds)} of devices: {parts or 'nothing is left to do'}",
            f"          {counted(self.num_stored, 'cost')} from what is stored, {self.num_probed} from a probe of a "
            "few steps",
            f"time      about {format_duration(self.wall_seconds)}, {counted(at_once, 'trial')} at a time; begun now, "
            f"it ends at {end:%H:%M on %Y-%m-%d}",
            *(
                [f"          trials end early, after the time budget of {study.time_budget}"]
                if study.time_budget
                else []
            ),
            f"memory    at least {_bytes(memory)} for {counted(self.needs.num_workers, 'worker')}"
            f"{_free(self.memory_bytes)}",
            f"disk      at least {_bytes(self.needs.storage_bytes)} for the storage{_free(self.disk_bytes)}, and "
            f"{_bytes(self.needs.temp_bytes)} for Ray's temporary folder",
        ]


def plan_study(work: Workspace, progress: Progress) -> Plan:
    """Estimates what is left of a study.

    Args:
        work: The study's workspace. Data on the CPU.
        progress: Entered; is told about the probe.

    Raises:
        ConfigError: The study began with another configuration.
        ResourceError: A trial can never be placed, or a machine lacks what a run needs.
    """
    record = StudyRecord(work)
    record.check()
    config = work.config
    num_finished = len(record.finished())
    num_trials = max(0, config.study.num_trials - num_finished)
    root = open_root(config.storage.root)
    disk = shutil.disk_usage(_existing(Path(root.uri))).free if root.is_local else None
    memory = None
    limit = SizeLimit(config, work.dataset)
    variants = network_variants(config, limit)
    if joins_a_cluster():
        with cluster(config, progress) as placement:
            check_nodes(work, placement, progress, num_trials=max(1, num_trials), variants=variants)
    else:
        placement, memory = plan_placement(config.study, [local_resources()]), free_memory()
    needs = estimate_needs(work, placement, num_trials=max(1, num_trials), variants=variants)
    if not joins_a_cluster():
        _check_machine(root.uri, placement, needs, memory, disk)
    epochs = expected_epochs(config, num_trials) if num_trials else 0.0
    costs = Costs(work, placement.cpus_per_worker, may_use_gpu=placement.gpus_per_worker > 0)
    progress.start(_STAGE, 3, "stages")
    builds = network_jobs(work, costs, variants) if num_trials else []
    progress.advance(1)
    each = [costs.trial(example, epochs) for example in example_trials(config, limit)] if num_trials else []
    trials = [each[number % len(each)] for number in range(num_trials)]
    progress.advance(2)
    contenders, students = (student_jobs(work, costs, left) for left in _students_left(work, record, num_trials))
    progress.advance(3)
    slots = placement.max_concurrent * placement.num_workers
    return Plan(
        study=work.study,
        num_trials=num_trials,
        num_finished=num_finished,
        epochs=epochs,
        config=config,
        stages=[
            Stage(name="teachers and priors", jobs=builds, wall_seconds=makespan(builds, slots)),
            Stage(
                name="trials",
                jobs=trials,
                wall_seconds=makespan([job / placement.num_workers for job in trials], placement.max_concurrent),
            ),
            Stage(name="students of contenders", jobs=contenders, wall_seconds=makespan(contenders, slots)),
            Stage(name="students", jobs=students, wall_seconds=makespan(students, slots)),
        ],
        placement=placement,
        needs=needs,
        memory_bytes=memory,
        disk_bytes=disk,
        start_seconds=_start_seconds(),
        left_out=limit.describe(),
        num_stored=costs.num_stored,
        num_probed=costs.num_probed,
    )


def expected_epochs(config: Config, num_trials: int) -> float:
    """Returns the epochs of a trial on average, of trials that keep their order from rung to rung.

    The study's scheduler itself decides, on trials one after the other in a random order.
    """
    rng = random.Random(0)
    rungs, means = rung_epochs(config), []
    waiting = SimpleNamespace(get_live_trials=list)
    for _ in range(_NUM_SIMULATIONS):
        scheduler, total = make_scheduler(config), 0.0
        for number in range(num_trials):
            trial = _Simulated(str(number))
            scheduler.on_trial_add(waiting, trial)
            accuracy, result = rng.random(), {}
            for epoch in rungs:
                result = {TIME_ATTRIBUTE: epoch, METRIC: accuracy}
                if scheduler.on_trial_result(waiting, trial, result) == scheduler.STOP:
                    break
            scheduler.on_trial_complete(waiting, trial, result)
            total += result[TIME_ATTRIBUTE]
        means.append(total / num_trials)
    return statistics.fmean(means)


def makespan(jobs: Iterable[float], num_slots: int) -> float:
    """Returns how long jobs take that are begun in their order, each as soon as a slot is free."""
    slots = [0.0] * num_slots
    for job in jobs:
        heapq.heapreplace(slots, slots[0] + job)
    return max(slots)


class _Simulated:
    """What a scheduler sees of Ray Tune's trial."""

    def __init__(self, name: str) -> None:
        self.trial_id, self.status = name, "RUNNING"


def _students_left(work: Workspace, record: StudyRecord, num_trials: int) -> tuple[list[Student], list[Student]]:
    """Returns the students that are to decide between contenders, and those of the final evaluation."""
    if num_trials:  # which generators contend isn't known before the last trial
        return contending_students(work), final_students(work)
    contending, final = record.missing_students()
    return students_of(contending), final_students(work) if contending else students_of(final)


def _start_seconds() -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {_TRIAL_MODULE}"], check=True, capture_output=True)
    return time.perf_counter() - started


def _check_machine(storage: str, placement: Placement, needs: Needs, memory: int | None, disk: int | None) -> None:
    """Refuses what this machine has no room for, as a preflight does on a cluster."""
    report = NodeReport(
        name="this machine",
        num_workers=placement.max_concurrent * placement.num_workers,
        num_gpus=0.0,
        versions=library_versions(),
        memory_bytes=memory,
        temp_bytes=shutil.disk_usage(tempfile.gettempdir()).free,
        storage_bytes=disk,
    )
    problems = find_problems([report], storage=storage, reference=library_versions(), needs=needs, uses_gpus=False)
    if problems:
        raise ResourceError("\n".join(problem.sentence for problem in problems))


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def _free(size_bytes: int | None) -> str:
    return "" if size_bytes is None else f" ({_bytes(size_bytes)} are free)"


def _bytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
