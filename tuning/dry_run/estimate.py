"""Device seconds of a study's jobs, from the store or a probe.

costs = Costs(work, probe)
costs.networks(variants), costs.seconds("trial", config)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dim_ray.config import Config, to_dict
from dim_ray.pipeline.evaluations import plan_evaluations
from dim_ray.pipeline.priors import prior_fingerprint, prior_is_settled
from dim_ray.pipeline.students import StudentPlan, plan_selection
from dim_ray.pipeline.teachers import pool_teachers, teacher_fingerprint
from dim_ray.pipeline.workspace import Workspace
from tuning.dry_run.probe import Probe
from tuning.dry_run.timings import Job, cost_key, stored_seconds
from tuning.record import StudyRecord

__all__ = ["Costs", "students_left"]


class Costs:
    """Device seconds of jobs; each kind of job is looked up in the store, or measured by the probe, once."""

    def __init__(self, work: Workspace, probe: Probe) -> None:
        self.num_stored = self.num_probed = 0
        self._work = work
        self._probe = probe
        self._known: dict[tuple[Any, ...], float] = {}

    def seconds(self, job: Job, config: Config, *arguments: Any) -> float:
        """Return the device seconds of a job; arguments as for `stored_seconds`."""
        key = (cost_key(job, to_dict(config)), *arguments)
        if key not in self._known:
            stored = stored_seconds(self._work, job, config, *arguments)
            self.num_stored += stored is not None
            self.num_probed += stored is None
            self._known[key] = self._probe.seconds(job, config, *arguments) if stored is None else stored
        return self._known[key]

    def networks(self, variants: Sequence[Config]) -> list[float]:
        """Return the seconds of each teacher and prior that the store lacks, the longest first."""
        jobs: dict[str, float] = {}
        for config in variants:
            work, names = replace(self._work, config=config), config.networks.teachers
            if (key := prior_fingerprint(work)) not in jobs and not prior_is_settled(work):
                jobs[key] = self.seconds("prior", config)
            for number in pool_teachers(config):
                key = teacher_fingerprint(work, number)
                if key not in jobs and not work.artifacts.exists("teachers", key):
                    jobs[key] = self.seconds("teacher", config, names[number % len(names)])
        return sorted(jobs.values(), reverse=True)

    def students(self, plans: Sequence[StudentPlan], config: Config, num_seeds: int) -> list[float]:
        """Return the seconds of each student, the longest first; one configuration stands for all generators'."""
        alike = (replace(plan, seed=0, generator=None, weights=None, teachers=()) for plan in plans)
        return sorted((self.seconds("student", config, plan, num_seeds) for plan in alike), reverse=True)


def students_left(
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
