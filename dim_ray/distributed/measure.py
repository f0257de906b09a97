"""Students, trained and measured over the cluster.

with cluster(config, progress) as placement:
    run_evaluations(work, plan_evaluations(work, fingerprint), placement, progress)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from dim_ray.config import Config
from dim_ray.core.training.ports import Reporter
from dim_ray.distributed.cluster.held import on_held_device
from dim_ray.distributed.cluster.placement import Placement
from dim_ray.distributed.tasks import Job, Task, run_tasks
from dim_ray.errors import DimError, DivergedError
from dim_ray.pipeline.contenders import validate_group
from dim_ray.pipeline.controls import measure_control, missing_students
from dim_ray.pipeline.evaluations import check_all_measured, evaluate_group
from dim_ray.pipeline.generators import load_module
from dim_ray.pipeline.rows import missing_rows
from dim_ray.pipeline.students import StudentPlan, group_students, validate
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress import Progress
from dim_ray.store.schema import EVALUATION_TABLE, VALIDATION_TABLE

__all__ = [
    "STAGE_CONTEND",
    "STAGE_EVALUATE",
    "control_task",
    "run_evaluations",
    "run_validations",
    "validate_elsewhere",
]

STAGE_CONTEND, STAGE_EVALUATE = "contenders", "evaluation"
_DISTILLATION_COST = 2  # of a control and its students, in that of the students


def run_evaluations(
    work: Workspace,
    planned: list[StudentPlan],
    placement: Placement,
    progress: Progress,
    beside: Mapping[str, Task] | None = None,
) -> int:
    """Run the evaluations that have no row yet, and return their number; other tasks run beside them.

    Raises:
        DivergedError: Students diverged; all others have their rows.
        DimError: As for `run_tasks`.
    """
    plans = missing_rows(work, EVALUATION_TABLE, planned)
    groups = _grouped(work, plans, placement, work.config.evaluation.num_seeds)
    tasks = {**(beside or {}), **_tasks(_evaluation_job, groups)}
    _run(work, tasks, placement, progress, STAGE_EVALUATE, len(planned), len(plans))
    check_all_measured(work, planned)
    return len(plans)


def run_validations(work: Workspace, planned: list[StudentPlan], placement: Placement, progress: Progress) -> int:
    """Run the contenders' students that have no row yet, and return their number."""
    plans = missing_rows(work, VALIDATION_TABLE, planned)
    groups = _grouped(work, plans, placement, work.config.study.contender_seeds)
    _run(work, _tasks(_validation_job, groups), placement, progress, STAGE_CONTEND, len(planned), len(plans))
    return len(plans)


def validate_elsewhere(work: Workspace, generator: str, placement: Placement) -> Mapping[str, float]:
    """Return the measurements of a stored generator, from a task with the resources of one worker.

    Raises:
        DivergedError: A student diverged.
    """
    outside = PlacementGroupSchedulingStrategy(placement_group=None)  # a trial's own group is full
    held = {"num_cpus": placement.cpus_per_worker, "num_gpus": placement.gpus_per_worker}
    task = ray.remote(**held, scheduling_strategy=outside)(_validate)
    try:
        measured: Mapping[str, float] = ray.get(task.options(name="validation").remote(work, generator))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, DimError):
            raise error.cause from error
        raise
    return measured


def control_task(work: Workspace, generator: str, config: Config) -> dict[str, Task]:
    """Return the task that makes and measures a generator's control; none if no student is missing."""
    num_students = len(missing_students(work, generator, config))
    cost = float(num_students * _DISTILLATION_COST)
    return {"control": Task(job=_control_job, argument=(generator, config), cost=cost)} if num_students else {}


def _grouped(
    work: Workspace, plans: Sequence[StudentPlan], placement: Placement, num_seeds: int
) -> list[list[StudentPlan]]:
    # Students that are trained at once share one worker, however many a distillation uses.
    device_type, num_slots = placement.device_type, placement.num_slots
    return group_students(work, plans, num_seeds=num_seeds, device_type=device_type, num_slots=num_slots)


def _tasks(job: Job, groups: Sequence[Sequence[StudentPlan]]) -> dict[str, Task]:
    return {f"students {i}": Task(job=job, argument=group, cost=len(group)) for i, group in enumerate(groups)}


def _run(
    work: Workspace,
    tasks: Mapping[str, Task],
    placement: Placement,
    progress: Progress,
    stage: str,
    num_planned: int,
    num_missing: int,
) -> None:
    if tasks:
        progress.start(stage, num_planned, "students")
        present = num_planned - num_missing
        run_tasks(work, tasks, placement, on_progress=lambda share, _: progress.advance(present + share * num_missing))


def _evaluation_job(work: Workspace, plans: list[StudentPlan], reporter: Reporter) -> None:
    with suppress(DivergedError):  # an error would end the other jobs
        evaluate_group(work, plans, reporter)


def _validation_job(work: Workspace, plans: list[StudentPlan], reporter: Reporter) -> None:
    validate_group(work, plans, reporter)


def _validate(work: Workspace, generator: str) -> Mapping[str, float]:
    work = on_held_device(work)
    return validate(work, load_module(work, generator, work.config.evaluation.weights))


def _control_job(work: Workspace, argument: tuple[str, Config], reporter: Reporter) -> None:
    measure_control(work, *argument, reporter)
