"""What a study would take, before it begins: trials, device seconds, time, memory and disk.

    lines, end = plan_study(work, progress, datetime.now())

Ray starts or is joined, the preflight runs, and a short probe measures what jobs cost. Nothing is stored.
"""

from __future__ import annotations

import heapq
import itertools
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import ray

from dim_ray.config import Config
from dim_ray.distributed.cluster.joining import cluster, joins_a_cluster
from dim_ray.distributed.cluster.placement import Node, Placement, workers_that_fit
from dim_ray.distributed.preflight.check import check_nodes
from dim_ray.distributed.preflight.needs import estimate_needs
from dim_ray.distributed.preflight.probe import free_memory
from dim_ray.pipeline.controls import control_config
from dim_ray.pipeline.evaluations import plan_evaluations
from dim_ray.pipeline.priors import prior_fingerprint, prior_is_settled
from dim_ray.pipeline.students import StudentPlan, plan_selection
from dim_ray.pipeline.teachers import pool_teachers, teacher_fingerprint
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress import Progress
from dim_ray.progress.stages import counted, format_duration
from dim_ray.store.files.filesystem import open_root
from tuning.dry_run.probe import Probe
from tuning.record import StudyRecord
from tuning.search.variants import SizeLimit, example_trials, network_variants

__all__ = ["makespan", "plan_study"]

_STAGE = "estimate"


def plan_study(work: Workspace, progress: Progress, begins: datetime) -> tuple[list[str], datetime]:
    """Return an estimate of what is left of a study as lines of text, and the time at which it would end.

    What the study itself would refuse when it begins is refused.
    """
    record, study = StudyRecord(work), work.config.study
    record.check()
    num_finished = len(record.finished())
    num_trials = max(0, study.num_trials - num_finished)
    limit = SizeLimit(work.config, work.dataset)
    left_out, variants = limit.describe(), network_variants(work.config, limit)
    with cluster(work.config, progress) as placement:
        check_nodes(work, placement, progress, num_trials=max(1, num_trials), variants=variants)
        progress.start(_STAGE, 3, "stages")
        with Probe(work, placement, _side_by_side(placement, _nodes(), num_trials)) as probe:
            networks = _network_seconds(work, probe, variants) if num_trials else []
            progress.advance(1)
            examples = example_trials(work.config, limit) if num_trials else []
            each = [probe.seconds("trial", config) for config in examples]
            trials = list(itertools.islice(itertools.cycle(each), num_trials))
            progress.advance(2)
            typical = variants[len(variants) // 2]
            contending_left, final_left, compared_left = _students_left(work, record, num_trials)
            contending = _student_seconds(probe, contending_left, typical, study.contender_seeds)
            final = _student_seconds(probe, final_left, typical, work.config.evaluation.num_seeds)
            control = []
            if compared_left and typical.matching.kind != "none":
                own = replace(control_config(typical), study=replace(study, scheduler="none"))
                students = _student_seconds(probe, compared_left, typical, study.contender_seeds)
                control = [probe.seconds("trial", own) + sum(students)]
            progress.advance(3)
    stages = {
        "teachers and priors": networks,
        "trials": trials,
        "students of contenders": contending,
        "students": final,
        "control": control,
    }
    workers = placement.num_workers
    shares = [trial / workers for trial in trials for _ in range(workers)]
    # The command, Ray, and the processes of networks and of trials have to start; students use those of the networks.
    seconds = probe.start_seconds * (2 + bool(networks) + bool(trials)) + sum(
        makespan(jobs, placement.max_concurrent * workers) for jobs in (networks, shares, contending, control + final)
    )
    end = begins + timedelta(seconds=seconds)
    parts = [f"{format_duration(sum(jobs))} for {len(jobs)} {name}" for name, jobs in stages.items() if jobs]
    at_once = min(placement.max_concurrent, max(1, num_trials))
    lines = [
        f"study {work.study}: {counted(num_trials, 'trial')} to run, {num_finished} of {study.num_trials} finished; "
        f"sampler {study.sampler}, scheduler {study.scheduler}",
        f"cost      about {format_duration(sum(map(sum, stages.values())))} of devices: "
        + (", ".join(parts) or "nothing is left to do"),
        f"time      about {format_duration(seconds)}, {counted(at_once, 'trial')} at a time; begun now, "
        f"it ends at {end:%H:%M on %Y-%m-%d}",
    ]
    if study.scheduler != "none" and trials:
        lines.append("          every trial is counted to its end, though the scheduler may stop some")
    if study.time_budget:
        lines.append(f"          no trial begins after the time budget of {study.time_budget}")
    if left_out:
        lines.append(f"          {left_out}")
    return [*lines, *_room(work, placement, num_trials, variants)], end


def makespan(jobs: Iterable[float], num_slots: int) -> float:
    """Return the time of jobs that begin in their order, each as soon as a slot is free."""
    slots = [0.0] * num_slots
    for job in jobs:
        heapq.heapreplace(slots, slots[0] + job)
    return max(slots)


def _side_by_side(placement: Placement, nodes: Sequence[Node], num_trials: int) -> int:
    """Return how many workers of trials will share the cores and GPUs of a node."""
    fit = max(workers_that_fit(placement.cpus_per_worker, placement.gpus_per_worker, node) for node in nodes)
    return max(1, min(fit, min(placement.max_concurrent, max(1, num_trials)) * placement.num_workers))


def _nodes() -> list[Node]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _network_seconds(work: Workspace, probe: Probe, variants: Sequence[Config]) -> list[float]:
    """Return the seconds of each teacher and prior that the storage lacks, the longest first."""
    jobs: dict[str, float] = {}
    for config in variants:
        own, names = replace(work, config=config), config.networks.teachers
        if (key := prior_fingerprint(own)) not in jobs and not prior_is_settled(own):
            jobs[key] = probe.seconds("prior", config)
        for number in pool_teachers(config):
            key = teacher_fingerprint(own, number)
            if key not in jobs and not work.artifacts.exists("teachers", key):
                jobs[key] = probe.seconds("teacher", config, names[number % len(names)])
    return sorted(jobs.values(), reverse=True)


def _student_seconds(probe: Probe, plans: Sequence[StudentPlan], config: Config, num_seeds: int) -> list[float]:
    """Return the seconds of each student, the longest first; one configuration stands for all generators'."""
    alike = (replace(plan, seed=0, generator=None, weights=None, teachers=()) for plan in plans)
    return sorted((probe.seconds("student", config, plan, num_seeds) for plan in alike), reverse=True)


def _students_left(
    work: Workspace, record: StudyRecord, num_trials: int
) -> tuple[Sequence[StudentPlan], Sequence[StudentPlan], Sequence[StudentPlan]]:
    """Return the students that are to decide between contenders, those of the final evaluation, and the control's.

    While trials are to run, the generators aren't known.
    """
    study = work.config.study
    contending, final, compared = ([], [], []) if num_trials else record.missing_students()
    if num_trials:
        contending = plan_selection(work, range(1)) * study.num_contender_students
    if num_trials or contending:
        num_compared = study.contender_seeds * (1 if study.num_contender_students else 2)
        compared = plan_selection(work, range(1)) * num_compared if study.control else []
        # Without teachers, because which ones they would be isn't known.
        evaluation = replace(work.config.evaluation, labels="hard", candidates=1, latent_steps=0)
        final = plan_evaluations(replace(work, config=replace(work.config, evaluation=evaluation)), "unknown")
    return contending, final, compared


def _room(work: Workspace, placement: Placement, num_trials: int, variants: Sequence[Config]) -> list[str]:
    """Return lines about memory and disk, with what is free where that is known."""
    needs = estimate_needs(work, placement, num_trials=max(1, num_trials), variants=variants)
    root = open_root(work.config.storage.root)
    memory = None if joins_a_cluster() else free_memory()
    disk = shutil.disk_usage(root.uri).free if root.is_local else None
    return [
        f"memory    at least {_bytes(needs.memory_bytes(needs.num_workers))} for "
        f"{counted(needs.num_workers, 'worker')}{_free(memory)}",
        f"disk      at least {_bytes(needs.storage_bytes)} for the storage{_free(disk)}, and "
        f"{_bytes(needs.temp_bytes)} for Ray's temporary folder",
    ]


def _free(size_bytes: int | None) -> str:
    return "" if size_bytes is None else f" ({_bytes(size_bytes)} are free)"


def _bytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
