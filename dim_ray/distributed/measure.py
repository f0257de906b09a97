"""What is distilled and measured over the cluster: one generator, evaluations.

    with cluster(config, progress) as placement:
        distill_one(work, placement, progress)
        run_evaluations(work, plan_evaluations(work, fingerprint), placement, progress)

Jobs of one worker are Ray tasks; jobs of several run under Ray Train.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from dim_ray.core.training.ports import Reporter, SingleWorker
from dim_ray.distributed.cluster.placement import Placement
from dim_ray.distributed.tasks import Job, Task, run_tasks
from dim_ray.distributed.trainer import DISTILLATION, distill_shards
from dim_ray.distributed.watched import advance, device_type, run_watched
from dim_ray.errors import DivergedError
from dim_ray.pipeline.contenders import validate_group
from dim_ray.pipeline.evaluations import check_all_measured, evaluate_group
from dim_ray.pipeline.generators import distill_generator
from dim_ray.pipeline.rows import missing_rows
from dim_ray.pipeline.students import StudentPlan, group_cells
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress import Progress
from dim_ray.store.schema import EVALUATION_TABLE, VALIDATION_TABLE

__all__ = ["STAGE_CONTEND", "STAGE_DISTILL", "STAGE_EVALUATE", "distill_one", "run_evaluations", "run_validations"]

STAGE_DISTILL, STAGE_CONTEND, STAGE_EVALUATE = "distillation", "contenders", "evaluation"


def distill_one(work: Workspace, placement: Placement, progress: Progress) -> None:
    """Distils the configuration's generator, if the storage doesn't hold it."""
    epochs = max(1, work.config.matching.epochs)
    progress.start(STAGE_DISTILL, epochs, "epochs")
    if placement.num_workers == 1:
        tasks = {DISTILLATION: Task(job=_distill_job, argument=None)}
        run_tasks(work, tasks, placement, on_progress=lambda share, _: progress.advance(share * epochs))
    else:
        costs, tell = {DISTILLATION: 1.0}, advance(progress, 0, epochs)
        run_watched(distill_shards, work, placement, what=DISTILLATION, costs=costs, on_progress=tell)


def run_evaluations(work: Workspace, planned: list[StudentPlan], placement: Placement, progress: Progress) -> int:
    """Runs the evaluations that have no row yet, and returns their number.

    Raises:
        DivergedError: Students diverged; all the others have their rows.
        DimError: As `run_tasks` raises it.
    """
    cells = missing_rows(work, EVALUATION_TABLE, planned)
    num_seeds = work.config.evaluation.num_seeds
    _run_students(work, planned, cells, _evaluation_job, num_seeds, STAGE_EVALUATE, placement, progress)
    check_all_measured(work, planned)
    return len(cells)


def run_validations(work: Workspace, planned: list[StudentPlan], placement: Placement, progress: Progress) -> int:
    """Runs the students that decide between generators and have no row yet, and returns their number."""
    cells = missing_rows(work, VALIDATION_TABLE, planned)
    num_seeds = work.config.study.contender_seeds
    _run_students(work, planned, cells, _validation_job, num_seeds, STAGE_CONTEND, placement, progress)
    return len(cells)


def _run_students(
    work: Workspace,
    planned: Sequence[StudentPlan],
    cells: Sequence[StudentPlan],
    job: Job,
    num_seeds: int,
    stage: str,
    placement: Placement,
    progress: Progress,
) -> None:
    if not cells:
        return
    present = len(planned) - len(cells)
    progress.start(stage, len(planned), "students")
    # One worker for the students that are trained at once, whatever a distillation uses.
    groups = group_cells(
        work,
        cells,
        num_seeds=num_seeds,
        device_type=device_type(placement),
        num_slots=placement.max_concurrent * placement.num_workers,
    )
    tasks = {f"students {i}": Task(job=job, argument=group, cost=len(group)) for i, group in enumerate(groups)}
    run_tasks(work, tasks, placement, on_progress=lambda share, _: progress.advance(present + share * len(cells)))


def _distill_job(work: Workspace, _: None, reporter: Reporter) -> None:
    distill_generator(work, reporter, SingleWorker())


def _evaluation_job(work: Workspace, cells: list[StudentPlan], _: Reporter) -> None:
    with suppress(DivergedError):  # an error would end the other jobs
        evaluate_group(work, cells)


def _validation_job(work: Workspace, cells: list[StudentPlan], _: Reporter) -> None:
    validate_group(work, cells)
