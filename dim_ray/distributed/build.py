"""What is built and measured over the cluster: teachers, priors, one distilled generator, evaluations.

    with cluster(config, progress) as placement:
        build_networks(work, config.pool.size, [config.generator.capacity], placement, progress)
        distill_one(work, placement, progress)
        run_evaluations(work, plan_evaluations(work, fingerprint), placement, progress)

Jobs of one worker are Ray tasks; jobs of several run under Ray Train.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray

from dim_ray.core.ports import Reporter, SingleWorker
from dim_ray.distributed.board import make_board, summarise
from dim_ray.distributed.bridge import pass_on_notices
from dim_ray.distributed.resources import Placement
from dim_ray.distributed.tasks import OnProgress, Task, run_tasks
from dim_ray.distributed.trainer import (
    DISTILLATION,
    PRIOR,
    WorkerJob,
    distill_shards,
    prior_shards,
    run_workers,
    teacher_shards,
)
from dim_ray.pipeline.evaluations import evaluate_group, missing_evaluations
from dim_ray.pipeline.generators import distill_generator
from dim_ray.pipeline.priors import build_prior, prior_is_settled
from dim_ray.pipeline.students import Evaluation, group_cells
from dim_ray.pipeline.teachers import build_teachers, group_teachers, missing_teachers, teachers_cost
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress import Progress
from dim_ray.store.filesystem import open_root

__all__ = [
    "ADVERSARIAL_COST",
    "STAGE_BUILD",
    "STAGE_DISTILL",
    "STAGE_EVALUATE",
    "build_networks",
    "distill_one",
    "ray_path",
    "run_evaluations",
    "watching",
]

STAGE_BUILD, STAGE_DISTILL, STAGE_EVALUATE = "teachers and priors", "distillation", "evaluation"
ADVERSARIAL_COST = 4.0
"""Of an image in stage 1 or 2, in those of an image in a classifier's training: for estimates of the time left."""
_SECONDS_BETWEEN_LOOKS = 0.5


def build_networks(
    work: Workspace, pool_size: int, capacities: Sequence[int], placement: Placement, progress: Progress
) -> None:
    """Builds the teachers and priors that the storage doesn't hold.

    Args:
        work: Data, recipes and storage.
        pool_size: Teachers 0 to pool_size - 1.
        capacities: One prior for each.
        placement: What one job holds.
        progress: Is told about one stage.
    """
    config = work.config
    work = replace(work, config=replace(config, pool=replace(config.pool, size=pool_size)))
    dearest_first = sorted(capacities, reverse=True)
    missing = [capacity for capacity in dearest_first if not prior_is_settled(_with_capacity(work, capacity))]
    teachers = missing_teachers(work)
    if not missing and not teachers:
        return
    progress.start(STAGE_BUILD, len(missing) + len(teachers), "networks")
    groups = _teacher_groups(work, teachers, placement)
    if placement.num_workers == 1:
        prior_cost = config.prior.epochs * ADVERSARIAL_COST
        tasks = {f"prior of capacity {c}": Task(job=_prior_job, argument=c, cost=prior_cost) for c in missing}
        tasks |= {name: Task(job=build_teachers, argument=own, cost=cost) for name, (own, cost) in groups.items()}
        num_networks = len(missing) + len(teachers)
        run_tasks(work, tasks, placement, on_progress=lambda share, note: progress.advance(num_networks * share, note))
        return
    if teachers:
        job = functools.partial(teacher_shards, groups)
        costs = {name: cost for name, (_, cost) in groups.items()}
        advance = _advance(progress, 0, len(teachers))
        _run_workers(job, work, placement, what="teacher training", costs=costs, on_progress=advance)
    for done, capacity in enumerate(missing, len(teachers)):
        advance = _advance(progress, done, 1)
        own = _with_capacity(work, capacity)
        _run_workers(prior_shards, own, placement, what=PRIOR, costs={PRIOR: 1.0}, on_progress=advance)


def distill_one(work: Workspace, placement: Placement, progress: Progress) -> None:
    """Distils the configuration's generator, if the storage doesn't hold it."""
    epochs = max(1, work.config.matching.epochs)
    progress.start(STAGE_DISTILL, epochs, "epochs")
    if placement.num_workers == 1:
        tasks = {DISTILLATION: Task(job=_distill_job, argument=None)}
        run_tasks(work, tasks, placement, on_progress=lambda share, _: progress.advance(share * epochs))
    else:
        costs, advance = {DISTILLATION: 1.0}, _advance(progress, 0, epochs)
        _run_workers(distill_shards, work, placement, what=DISTILLATION, costs=costs, on_progress=advance)


def run_evaluations(work: Workspace, planned: list[Evaluation], placement: Placement, progress: Progress) -> int:
    """Runs the evaluations that have no row yet, and returns their number."""
    cells = missing_evaluations(work, planned)
    if not cells:
        return 0
    present = len(planned) - len(cells)
    progress.start(STAGE_EVALUATE, len(planned), "students")
    # One worker for the students that are trained at once, whatever a distillation uses.
    groups = group_cells(
        work,
        cells,
        num_seeds=work.config.evaluation.num_seeds,
        device_type=_device_type(placement),
        num_slots=placement.max_concurrent * placement.num_workers,
    )
    tasks = {
        f"students {i}": Task(job=_evaluation_job, argument=group, cost=len(group)) for i, group in enumerate(groups)
    }
    run_tasks(work, tasks, placement, on_progress=lambda share, _: progress.advance(present + share * len(cells)))
    return len(cells)


def ray_path(work: Workspace) -> str:
    """Returns where Ray keeps its own state of a study."""
    return open_root(work.config.storage.root).uri_of(f"studies/{work.study}/ray")


@contextmanager
def watching(board: Any, costs: Mapping[str, float], on_progress: OnProgress) -> Iterator[None]:
    """Reads a board while the body runs: tells how far its jobs are, and passes its notices on; ends the board.

    Args:
        board: The actor.
        costs: What each job takes, in any one unit.
        on_progress: Is told how far they are.
    """
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_SECONDS_BETWEEN_LOOKS):
            try:
                fractions = ray.get(board.read.remote())
                pass_on_notices(board)
            except ray.exceptions.RayError:  # the run itself says what is wrong
                return
            if fractions and costs:
                on_progress(*summarise(fractions, costs))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        ray.kill(board)


def _run_workers(
    job: WorkerJob,
    work: Workspace,
    placement: Placement,
    *,
    what: str,
    costs: Mapping[str, float],
    on_progress: OnProgress,
) -> None:
    board = make_board()
    with watching(board, costs, on_progress):
        run_workers(
            job,
            ray.put(work),
            placement,
            what=what,
            name=f"{what.replace(' ', '-')}-{time.time_ns()}",
            storage_path=ray_path(work),
            max_failures=work.config.study.max_failures,
            board=board,
        )


def _teacher_groups(
    work: Workspace, teachers: Sequence[int], placement: Placement
) -> dict[str, tuple[Sequence[int], float]]:
    """Returns groups of teachers that are trained at once, by name, with what each costs; the dearest first."""
    num_slots = placement.max_concurrent * placement.num_workers
    groups = group_teachers(work, teachers, device_type=_device_type(placement), num_slots=num_slots)
    names = ["teacher " + "+".join(map(str, group)) for group in groups]
    return {name: (group, teachers_cost(work, group)) for name, group in zip(names, groups, strict=True)}


def _device_type(placement: Placement) -> str:
    return "cuda" if placement.gpus_per_worker else "cpu"


def _advance(progress: Progress, done: int, size: int) -> OnProgress:
    """Returns what moves a stage through `size` of its units, after `done` of them; one job needs no note."""
    return lambda share, note: progress.advance(done + size * share, note if size > 1 else "")


def _prior_job(work: Workspace, capacity: int, reporter: Reporter) -> None:
    build_prior(_with_capacity(work, capacity), reporter, SingleWorker())


def _distill_job(work: Workspace, _: None, reporter: Reporter) -> None:
    distill_generator(work, reporter, SingleWorker())


def _evaluation_job(work: Workspace, cells: list[Evaluation], _: Reporter) -> None:
    evaluate_group(work, cells)


def _with_capacity(work: Workspace, capacity: int) -> Workspace:
    config = work.config
    return replace(work, config=replace(config, generator=replace(config.generator, capacity=capacity)))
