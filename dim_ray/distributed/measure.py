"""Students, trained and measured over the cluster.

with cluster(config, progress) as placement:
    run_evaluations(work, plan_evaluations(work, fingerprint), placement, progress)
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from dim_ray.core.training.ports import Reporter
from dim_ray.distributed.cluster.placement import Placement
from dim_ray.distributed.tasks import Job, Task, run_tasks
from dim_ray.errors import DivergedError
from dim_ray.pipeline.contenders import validate_group
from dim_ray.pipeline.evaluations import check_all_measured, evaluate_group
from dim_ray.pipeline.rows import missing_rows
from dim_ray.pipeline.students import StudentPlan, group_students
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress import Progress
from dim_ray.store.schema import EVALUATION_TABLE, VALIDATION_TABLE, Table

__all__ = ["STAGE_CONTEND", "STAGE_EVALUATE", "run_evaluations", "run_validations"]

STAGE_CONTEND, STAGE_EVALUATE = "contenders", "evaluation"


def run_evaluations(work: Workspace, planned: list[StudentPlan], placement: Placement, progress: Progress) -> int:
    """Run the evaluations that have no row yet, and return their number.

    Raises:
        DivergedError: Students diverged; all others have their rows.
        DimError: As for `run_tasks`.
    """
    num_seeds = work.config.evaluation.num_seeds
    num_run = _run_students(
        work, planned, placement, progress, EVALUATION_TABLE, _evaluation_job, num_seeds, STAGE_EVALUATE
    )
    check_all_measured(work, planned)
    return num_run


def run_validations(work: Workspace, planned: list[StudentPlan], placement: Placement, progress: Progress) -> int:
    """Run the contenders' students that have no row yet, and return their number."""
    num_seeds = work.config.study.contender_seeds
    return _run_students(
        work, planned, placement, progress, VALIDATION_TABLE, _validation_job, num_seeds, STAGE_CONTEND
    )


def _run_students(
    work: Workspace,
    planned: Sequence[StudentPlan],
    placement: Placement,
    progress: Progress,
    table: Table,
    job: Job,
    num_seeds: int,
    stage: str,
) -> int:
    plans = missing_rows(work, table, planned)
    if not plans:
        return 0
    present = len(planned) - len(plans)
    progress.start(stage, len(planned), "students")
    # Students that are trained at once share one worker, however many a distillation uses.
    num_slots = placement.max_concurrent * placement.num_workers
    groups = group_students(work, plans, num_seeds=num_seeds, device_type=placement.device_type, num_slots=num_slots)
    tasks = {f"students {i}": Task(job=job, argument=group, cost=len(group)) for i, group in enumerate(groups)}
    run_tasks(work, tasks, placement, on_progress=lambda share, _: progress.advance(present + share * len(plans)))
    return len(plans)


def _evaluation_job(work: Workspace, plans: list[StudentPlan], reporter: Reporter) -> None:
    with suppress(DivergedError):  # an error would end the other jobs
        evaluate_group(work, plans, reporter)


def _validation_job(work: Workspace, plans: list[StudentPlan], reporter: Reporter) -> None:
    validate_group(work, plans, reporter)
